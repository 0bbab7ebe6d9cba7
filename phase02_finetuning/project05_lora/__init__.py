"""A fine-tune is a small, low-rank push: train two thin matrices and leave the weights alone."""
