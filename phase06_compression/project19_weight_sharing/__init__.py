"""The same matrix can serve twice: parameters and computation are different things."""
