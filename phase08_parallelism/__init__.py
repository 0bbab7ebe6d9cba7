"""Phase 8: one model over several processes."""
