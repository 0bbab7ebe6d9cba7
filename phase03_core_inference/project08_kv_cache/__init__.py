"""Keys and values of the past never change, so compute them once."""
