"""Train with the rounding in place and pretend, backwards, that it is not there."""
