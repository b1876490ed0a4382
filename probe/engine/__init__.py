"""Flows and a clock in, samples out: when probes leave, what becomes of each, and when a window may be
closed."""
