"""A teacher's full distribution says more about each token than the one right answer."""
