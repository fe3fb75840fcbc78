"""The story of a request: execute, sessions, registry and states, output spool."""
