"""Every message across the privilege line, and their framing with file descriptors."""
