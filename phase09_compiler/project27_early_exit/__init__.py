"""Easy tokens are decided early: stop climbing when the answer no longer changes."""
