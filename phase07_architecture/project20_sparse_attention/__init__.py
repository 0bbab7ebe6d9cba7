"""Most of what a token could look at, it ignores: choose the pattern and skip the rest."""
