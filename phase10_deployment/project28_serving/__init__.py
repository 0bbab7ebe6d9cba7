"""A server is a scheduler with a door: bound everything, stream everything, free what is left behind."""
