"""The whole chain on one page: every token can be asked where it came from."""
