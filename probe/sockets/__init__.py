"""Rows of bytes in, packets on the wire out, and back with the kernel's stamps: the only place that opens
probe sockets."""
