"""Weights need few bits when each group has its own scale and rounding errors are paid forward."""
