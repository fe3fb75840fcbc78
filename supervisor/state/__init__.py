"""What survives a restart, beside the audit log: one SQLite file, written durably by one thread, many changes at once.

`store` is the file and its thread; `schema` brings the tables of each room up to date. What the rows mean is known to
the rooms that keep them.
"""
