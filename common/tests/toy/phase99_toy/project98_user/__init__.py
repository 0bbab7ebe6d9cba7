"""It stands on project 99."""
