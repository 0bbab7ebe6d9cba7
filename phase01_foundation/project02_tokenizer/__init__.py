"""Merge the most frequent pair, again and again: a vocabulary falls out of counting."""
