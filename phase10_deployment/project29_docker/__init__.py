"""What runs here must run there: pin it, shrink it, watch its health."""
