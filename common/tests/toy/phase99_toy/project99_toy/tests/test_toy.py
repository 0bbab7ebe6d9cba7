"""The tests of the toy."""

import pytest
from phase99_toy.project99_toy.scale import scaled
from phase99_toy.project99_toy.toy import Counter, Total, naive, running_sum

from common.proofs import prove


@pytest.mark.exercise("running_sum")
@pytest.mark.parametrize("numbers", [[], [3], [1, 2, 3]])
def test_matches_naive(numbers):
    """The sums are those of the naive version."""
    assert running_sum(numbers) == naive(numbers)
    assert len(running_sum([0])) == 1, "one sum for each number"


@pytest.mark.exercise("Counter.add")
class TestCounter:
    def test_counts(self):
        counter = Counter()
        assert [counter.add(n) for n in (1, 2)] == [Total(1), Total(3)], "it must remember what it has seen"

    @pytest.mark.exercise("running_sum")
    def test_counts_sums(self):
        """Sums can be counted."""
        assert Counter().add(running_sum([1, 2])[-1]) == Total(3)


@pytest.mark.exercise("scaled")
def test_scaled():
    """Twice the numbers."""
    assert scaled([1, 2], by=2) == [2, 4]


@pytest.mark.slow
@pytest.mark.exercise("scaled")
def test_scaled_slowly():
    """Left out of the default suite."""
    assert scaled([1] * 1000, by=0) == [0] * 1000


def test_whole():
    """Everything together."""
    assert scaled(running_sum([1, 1]), by=3) == [3, 6]


def test_wrong_solutions_are_caught():
    """The proofs."""
    prove(__file__)
