"""Ceilings, the roofline, peak memory to the byte, and the profiler's table."""
import json
import os

import pytest
import torch

from common.profiling import Ceilings, ceilings, peak_of, profile, roofline, thin, without_announcements

CPU = torch.device("cpu")


def test_ceilings_are_measured():
    found = ceilings(CPU, seconds=0.0, size=64, megabytes=1)
    assert all(value > 0 for value in (found.fp32, found.bf16, found.read, found.copy))


def test_roofline_takes_the_slower_of_the_two():
    machine = Ceilings(fp32=100.0, bf16=1000.0, read=10.0, copy=20.0)
    assert roofline(1000, 10, machine) == 10.0, "bound by arithmetic"
    assert roofline(1000, 10, machine, "bf16") == 1.0
    assert roofline(100, 500, machine) == 50.0, "bound by memory"


def test_peak_memory_counts_tensors_to_the_byte():
    x = torch.zeros(1000)
    assert peak_of(lambda: x + x, CPU) == 4000
    assert peak_of(lambda: (x + x) * x, CPU) == 8000, "the sum lives until the product is there"
    assert peak_of(lambda: x.add_(x), CPU) == 0, "in place: nothing new"

    def five():
        y = x
        for _ in range(5):
            y = y + x

    assert peak_of(five, CPU) == 8000, "the highest at one time, not the sum"


def test_peak_memory_is_the_same_after_a_greedy_neighbour():
    """What the size of the process would show wrongly: it keeps the memory that a side has freed."""
    x, big = torch.zeros(100), torch.zeros(1_000_000)
    before = peak_of(lambda: x + x, CPU)
    assert peak_of(lambda: big + big, CPU) == 4_000_000
    assert peak_of(lambda: x + x, CPU) == before == 400


def test_profile_names_the_largest_operations(tmp_path):
    a = torch.randn(256, 256)
    found = profile(lambda: (a @ a).relu(), CPU, trace=tmp_path / "deep" / "trace.json", steps=4, rows=3)
    assert len(found["operations"]) == 3 and found["steps"] == 4 and found["seconds"] > 0
    names = {row["name"]: row for row in found["operations"]}
    assert names["aten::mm"]["calls"] == 4
    spent = [row["ms"] for row in found["operations"]]
    assert spent == sorted(spent, reverse=True)
    assert 0 < sum(row["share"] for row in found["operations"]) <= 1
    assert max(held for _, held in found["memory"]) == 2 * a.nbytes
    assert json.loads((tmp_path / "deep" / "trace.json").read_text())["traceEvents"]
    json.dumps(found, allow_nan=False)


def test_a_thinned_line_keeps_its_peak():
    line = [[t, 7 if t == 501 else t % 5] for t in range(1000)]
    assert len(thin(line)) <= 200 and max(held for _, held in thin(line)) == 7
    assert thin([[0, 1]]) == [[0, 1]] and thin([]) == []


def test_other_words_on_stderr_are_passed_on(capfd):
    with pytest.raises(ZeroDivisionError), without_announcements():
        os.write(2, b"USDT:2026 profiler_start\n[W] a warning\n")
        raise ZeroDivisionError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "[W] a warning\nafter\n"
