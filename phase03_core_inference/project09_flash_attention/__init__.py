"""Softmax can be summed tile by tile, so the T x T matrix never has to exist."""
