"""The parser room: shell text into a syntax tree, by a pinned program that gets no power and little time."""
