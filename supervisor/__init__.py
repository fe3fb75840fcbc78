"""Stockade: a sandboxed execution supervisor for AI agents on Linux."""

__version__ = "0.1.0"
