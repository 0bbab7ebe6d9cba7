"""A phase of two toy projects, copied into an empty root by the tests of the exercises."""
