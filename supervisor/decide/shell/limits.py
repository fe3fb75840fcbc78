"""How far an analysis goes. Past a bound it stops, and what was found until then stands. Pure."""

from __future__ import annotations

MAX_DEPTH = 16  # texts inside of texts
MAX_NESTING = 120  # statements inside of statements
MAX_COMMANDS = 4000
MAX_STEPS = 60_000
MAX_TEXTS = 64  # that need the parser
MAX_PARSED = 131_072  # characters of them
MAX_REFUSED = 8  # texts that do not parse


class TooMuch(Exception):
    """A bound was reached."""
