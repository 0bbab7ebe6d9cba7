"""Phase 5: fewer bits for weights and caches, after training and during it."""
