"""Most weights can go; which ones, and whether anything gets faster, are two questions."""
