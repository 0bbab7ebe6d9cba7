"""Running sums: a technique that is small enough to test the exercises with."""

from dataclasses import dataclass

from common.exercise import exercise


@dataclass(frozen=True)
class Total:
    """A sum that travels between processes."""

    value: int


def naive(numbers):
    """The sum of the first n numbers, for every n."""
    return [sum(numbers[: n + 1]) for n in range(len(numbers))]


@exercise
def running_sum(numbers):
    """n numbers -> n sums: the sum of the first one, of the first two, and so on."""
    total, sums = 0, []
    for number in numbers:
        total += number  # only one addition for each number
        sums.append(total)
    return sums


class Counter:
    """Counts what it is given."""

    def __init__(self):
        self.seen = 0

    @exercise
    def add(self, number):
        """Count on by `number`, which must not be negative (ValueError); returns the Total so far."""
        if number < 0:
            raise ValueError(f"cannot count {number}")
        self.seen += number
        return Total(self.seen)
