"""`@exercise` marks what a learner writes. At run time it does nothing."""


def exercise(function):
    """Mark a function or method that the learner writes again from a stub; returned unchanged."""
    return function
