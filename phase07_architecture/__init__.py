"""Phase 7: other shapes of attention and of the feed-forward."""
