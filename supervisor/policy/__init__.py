"""What is allowed: model, load, narrow, lint, digest, presets. Pure: no I/O but reading files."""
