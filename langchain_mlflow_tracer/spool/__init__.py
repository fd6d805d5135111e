"""The wall between rooms 2 and 3: a queue of bytes on disk."""
