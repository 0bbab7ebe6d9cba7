"""Requests share beginnings: keep the keys and values of a prefix and start after it."""
