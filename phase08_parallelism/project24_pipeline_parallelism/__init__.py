"""Layers on different devices work at the same time once the batch is cut into pieces."""
