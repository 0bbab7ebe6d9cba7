"""Sums can run."""
