"""Rows of bytes in, columns of numbers out, and back: packet layouts without any I/O."""
