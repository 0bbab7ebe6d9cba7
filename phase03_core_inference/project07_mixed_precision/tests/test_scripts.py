"""The proofs: every exercise's stub fails, the reference passes, each wrong solution is caught."""

from common.proofs import prove


def test_wrong_solutions_are_caught():
    prove(__file__)
