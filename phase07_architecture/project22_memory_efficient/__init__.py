"""Attention over a part of the keys can be merged exactly with the rest, given its log-sum-exp."""
