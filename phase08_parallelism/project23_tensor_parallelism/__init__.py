"""Split one matrix by columns and the next by rows, and two ranks need to talk only once."""
