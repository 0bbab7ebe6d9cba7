"""Phase 4: one engine that grows: shared prefixes, drafts, continuous batches, pages."""
