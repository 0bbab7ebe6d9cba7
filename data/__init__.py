"""Corpora, readers, and TinyTown, the generated world."""
