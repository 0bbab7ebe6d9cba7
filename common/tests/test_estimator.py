"""The estimator and what it hands to a result: coverage, pairs, figures in seconds and in work done."""
import numpy as np
import pytest

from common.benchmark import Comparison, Load, Side, estimate, paired, ratio, student, values

RUN = Comparison({"base": Side("base", (2.0, 2.2) * 6, counts={"FLOPs": 8}),
                  "ours": Side("ours", (1.0, 1.1) * 6)}, 0.25)


def noisy():
    """Sixteen rounds of 2 s against 1 s, with five per cent of noise."""
    random = np.random.default_rng(0)
    return Comparison({name: Side(name, tuple(seconds * random.lognormal(0, 0.05, 32)))
                       for name, seconds in (("base", 2.0), ("ours", 1.0))})


@pytest.mark.parametrize("n", [6, 8, 15, 40])
def test_coverage_of_the_interval_without_a_stopping_rule(n):
    random = np.random.default_rng(n)
    draws = random.standard_t(2, (200, n)) * 0.05 + random.normal(0, 0.02, (200, n))
    held = sum(low <= 1 <= high for _, (low, high) in map(estimate, draws))
    assert 0.92 <= held / 200 <= 0.995


def test_six_rounds_are_the_fewest_for_an_interval():
    random = np.random.default_rng(0)
    assert estimate(random.normal(0, 1, 5))[1] is None
    assert estimate(random.normal(0, 1, 6))[1] is not None


# --- what goes into a result --------------------------------------------------------------------------------

def test_figures_in_seconds_and_in_work_done():
    seconds, rate = RUN.figures("ours"), RUN.figures("ours", work=10)
    assert seconds["ratio"] == pytest.approx(0.5) and rate["ratio"] == pytest.approx(2)
    assert seconds["baseline"].value == pytest.approx(2.1) and seconds["ours"].value == pytest.approx(1.05)
    assert rate["ours"].value == pytest.approx((10 + 10 / 1.1) / 2)
    assert rate["samples"]["ours"][:2] == [10.0, 9.09091] and rate["baseline"].counts == {"FLOPs": 8}
    assert rate["settings"] == {"rounds": 6.0, "processors used by others": 0.25}
    assert rate["interval"][0] <= rate["ratio"] <= rate["interval"][1]


def test_interval_of_a_rate_is_the_interval_of_the_seconds_turned_round():
    low, high = noisy().figures("ours")["interval"]
    assert low < 0.5 < high
    assert noisy().figures("ours", work=1)["interval"] == pytest.approx((1 / high, 1 / low))


def test_the_ratio_can_be_worked_out_again_from_the_samples():
    found = noisy().figures("ours", work=100)
    again, interval = ratio(found["samples"]["base"], found["samples"]["ours"])  # rates: ours / baseline
    assert again == pytest.approx(found["ratio"], rel=1e-4)
    assert interval == pytest.approx(found["interval"], rel=1e-4)


def test_values_that_no_clock_gave():
    alone = values("ours", [1.9, 1.8, 2.0])
    assert alone["ours"].value == 1.9 and "ratio" not in alone
    assert alone["samples"] == {"ours": [1.9, 1.8, 2.0]}
    both = values("ours", [1.0, 2.0, 3.0], "theirs", [2.0, 4.0, 6.0])
    assert both["ratio"] == pytest.approx(0.5) and both["interval"] is None
    assert both["baseline"].name == "theirs" and both["ours"].value == 2


def test_paired_takes_out_what_the_pairs_share():
    random = np.random.default_rng(0)
    theirs = random.lognormal(0, 1, 20)
    _, (low, high) = paired(0.98 * theirs * random.lognormal(0, 0.002, 20), theirs)
    assert low < 0.98 < high < 1


@pytest.mark.parametrize("freedom, table",
                         [(5, 2.5706), (7, 2.3646), (15, 2.1314), (30, 2.0423), (120, 1.9799)])
def test_student_against_the_printed_table(freedom, table):
    assert student(freedom) == pytest.approx(table, rel=2e-3)


# --- load ---------------------------------------------------------------------------------------------------

def test_load_counts_what_others_use(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 5000 0 0 0 0 0 0\n")
    load = Load(stat)
    stat.write_text("cpu  1000100 0 100 5000 0 0 0 0 0 0\n")
    assert load.others() > 0
    assert Load(tmp_path / "none").others() is None
