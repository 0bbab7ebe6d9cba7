"""The sketch against a Counter: never too low, nearer than a plain one, and fair to groups."""

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase04_advanced_inference.project10_prompt_caching.sketch import (
    CountMin,
    GroupSketch,
    HotKeys,
    fair_widths,
)

ROOT = Path(__file__).resolve().parents[3]
# A machine that is busy, or stopped for a while, is no failure.
ANY_SPEED = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}


@pytest.mark.exercise("CountMin.add", "CountMin.estimate")
@settings(max_examples=40, derandomize=True, **ANY_SPEED)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1), st.integers(1, 9))
def test_never_too_low(adds, width):
    """Whatever is added, an estimate is at least the truth and at most all there was."""
    sketch, truth = CountMin(width, 3), Counter()
    for key, n in adds:
        sketch.add(key, n)
        truth[key] += n
    assert sketch.total == truth.total()
    assert all(n <= sketch.estimate(key) <= sketch.total for key, n in truth.items())


@pytest.mark.exercise("CountMin.estimate")
def test_the_least_counter_is_read():
    """Of a key's counters, 5, 3 and 9, the 3 is nearest; other counters say nothing."""
    sketch = CountMin(50, 3)
    for row, column, n in zip(sketch.table, sketch.columns("key"), (5, 3, 9), strict=True):
        row[column] = n
    assert sketch.estimate("key") == 3


@pytest.mark.exercise("CountMin.add")
def test_matches_a_counter_where_there_is_room():
    sketch = CountMin(5000, 4)
    for i in range(300):
        sketch.add(i % 40, 2)
    assert [sketch.estimate(i) for i in range(40)] == [2 * n for _, n in sorted(
        Counter(i % 40 for i in range(300)).items())]  # fmt: skip
    assert sketch.estimate("never") == 0


@pytest.mark.exercise("CountMin.add")
def test_is_on_no_counter_rises_further_than_it_must():
    """Conservative: after an addition each of the key's counters is its old self or the key's estimate."""
    sketch, plain = CountMin(8, 3), [[0] * 8 for _ in range(3)]
    for i in range(200):
        key, before = (i * i) % 23, [row[:] for row in sketch.table]
        at = list(sketch.columns(key))
        level = min(row[c] for row, c in zip(before, at, strict=True)) + 1
        sketch.add(key)
        for row, old, column in zip(sketch.table, before, at, strict=True):
            old[column] = max(old[column], level)
            assert row == old
        for row, column in zip(plain, at, strict=True):
            row[column] += 1
    assert sum(map(sum, sketch.table)) < sum(map(sum, plain))


def test_the_bound_holds():
    """Few of 300 keys are off by more than e / width of all that was added."""
    sketch, truth = CountMin(64, 4), Counter((i * i) % 307 for i in range(4000))
    for key, n in truth.items():
        sketch.add(key, n)
    error, chance = sketch.bound()
    off = sum(sketch.estimate(key) - n > error for key, n in truth.items())
    assert error == pytest.approx(math.e / 64 * 4000) and off <= max(1, chance * len(truth))


def test_the_same_in_every_process():
    """Text keys fall into the same columns elsewhere: no hash that is seeded anew each time."""
    code = ("from phase04_advanced_inference.project10_prompt_caching.sketch import CountMin; "
            "print(list(CountMin(1000).columns('Mara')))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(list(CountMin(1000).columns("Mara")))


def test_columns_are_shared_fairly():
    """In proportion to distinct keys, all handed out, nobody without one."""
    assert fair_widths({"a": 30, "b": 10}, 42) == {"a": 31, "b": 11}
    assert fair_widths({"a": 1000, "b": 0}, 5) == {"a": 4, "b": 1}
    assert fair_widths({"a": 1, "b": 1, "c": 1}, 8) == {"a": 3, "b": 3, "c": 2}
    assert fair_widths({"a": 5, "b": 3}, 10) == {"a": 6, "b": 4}
    assert sum(fair_widths({i: i * i for i in range(1, 9)}, 100).values()) == 100
    with pytest.raises(UserError, match="at least one each"):
        fair_widths({"a": 1, "b": 1}, 1)


def test_groups_do_not_blur_each_other():
    groups = GroupSketch({"busy": 4, "quiet": 4})
    for i in range(500):
        groups.part("busy").add(i)
    groups.part("quiet").add("x")
    assert groups.part("quiet").estimate("x") == 1 and groups.part("quiet").bound()[0] < 1
    with pytest.raises(UserError, match="no group"):
        groups.part("other")


def test_hot_keys_are_found():
    """What makes up a tenth of a stream is hot; a key seen long ago no longer is."""
    hot = HotKeys(CountMin(500), share=0.1)
    for i in range(1000):
        hot.see("hot" if i % 5 == 0 else i)
    assert hot.see("hot") and "hot" in hot.keys and len(hot.keys) <= 20


@pytest.mark.parametrize("make", [lambda: CountMin(0), lambda: CountMin(3).add(1, 0),
                                  lambda: HotKeys(CountMin(3), 0), lambda: GroupSketch({})])  # fmt: skip
def test_bad_sketches(make):
    with pytest.raises(UserError):
        make()
