"""A second technique file, that nothing of the first needs."""

from common.exercise import exercise


@exercise
def scaled(numbers, by):
    """Every number times `by`."""
    return [number * by for number in numbers]
