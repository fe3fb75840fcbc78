"""The only ctypes and raw system calls of Stockade. Silent: everything here raises OSError."""
