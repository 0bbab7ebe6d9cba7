"""A preference is a difference of log-probabilities: no reward model is needed to learn from it."""
