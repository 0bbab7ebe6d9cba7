"""Many feed-forward layers, few used for each token: capacity without computation."""
