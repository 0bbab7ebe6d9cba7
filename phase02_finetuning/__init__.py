"""Phase 2: from a base model to one that follows, with few weights, and as people prefer."""
