"""Small operations wait for memory, not for arithmetic: do several in one visit."""
