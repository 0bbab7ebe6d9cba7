"""Phase 6: smaller models: cut, taught, shared."""
