"""Samples of one window in, summaries and histograms out: pure numpy, time is an argument."""
