"""Phase 3: the three reasons why inference is fast: fewer bits, no recomputation, no big matrix."""
