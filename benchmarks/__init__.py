"""Whole processes in, the figures that the README claims out; every figure has one command here."""
