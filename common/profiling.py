"""What the machine allows and where the time goes: ceilings, roofline, peak memory, the profiler's table.

torch.profiler counts every allocation of a tensor, which the process's size does not show: freed memory stays
with the process, so the second of two sides would be charged with the first one's.
"""
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import profiler

from common import device as devices

# --- what the machine allows --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Ceilings:
    """The best this machine did in this run: FLOP/s of a matrix product, bytes/s read and copied."""
    fp32: float
    bf16: float
    read: float
    copy: float


def ceilings(device: torch.device, *, seconds: float = 0.5, size: int | None = None,
             megabytes: int = 256) -> Ceilings:
    """Measure the ceilings, each for `seconds`: `size` x `size` products, and `megabytes` read and copied.

    A copy of n bytes reads n and writes n, and counts 2n.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    x = torch.ones(megabytes * 2**18, device=device)
    y = torch.empty_like(x)
    flops = [devices.gemm_ceiling(device, kind, size, seconds) for kind in (torch.float32, torch.bfloat16)]
    return Ceilings(*flops, x.nbytes / shortest(x.sum, device, seconds),
                    2 * x.nbytes / shortest(lambda: y.copy_(x), device, seconds))


def shortest(call: Callable, device: torch.device, seconds: float) -> float:
    """The shortest of at least three runs, in seconds: a ceiling is what can be reached, not a mean."""
    runs, end = [], time.perf_counter() + seconds
    while len(runs) < 3 or time.perf_counter() < end:
        devices.synchronize(device)
        start = time.perf_counter()
        call()
        devices.synchronize(device)
        runs.append(time.perf_counter() - start)
    return min(runs)


def roofline(flops: float, nbytes: float, ceilings: Ceilings, dtype: str = "fp32") -> float:
    """The fewest seconds in which so many operations and bytes read can be had (Williams et al. 2009)."""
    return max(flops / getattr(ceilings, dtype), nbytes / ceilings.read)


# --- where the time and the memory go -----------------------------------------------------------------------

def record(call: Callable, device: torch.device, steps: int = 1) -> profiler.profile:
    """A finished profile of `steps` calls, with every allocation."""
    kinds = [profiler.ProfilerActivity.CPU]
    if device.type == "cuda":  # pragma: no cover - gpu
        kinds.append(profiler.ProfilerActivity.CUDA)
    with without_announcements(), profiler.profile(activities=kinds, profile_memory=True) as found:
        for _ in range(steps):
            call()
        devices.synchronize(device)
    return found


@contextmanager
def without_announcements() -> Iterator[None]:
    """Kineto announces its start and stop on stderr, past Python; whatever else comes there is passed on."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            caught.seek(0)
            kept = b"".join(line for line in caught if not line.startswith(b"USDT:"))
            os.write(2, kept)


def memory(found: profiler.profile, device: torch.device) -> list[tuple[int, int]]:
    """[(nanoseconds since the first, bytes held)] after each allocation and each release on the device.

    Bytes are those of tensors made since the profile began.
    """
    kind = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    events = sorted((e.start_ns(), e.nbytes()) for e in found.profiler.kineto_results.events()
                    if e.name() == "[memory]" and e.device_type() == kind)
    held = itertools.accumulate(nbytes for _, nbytes in events)
    return [(at - events[0][0], total) for (at, _), total in zip(events, held, strict=True)]


def peak_of(call: Callable, device: torch.device) -> int | None:
    """Most bytes of tensors that the call held at once, beyond what was there before it. None: not known."""
    if device.type == "cpu":
        return max((held for _, held in memory(record(call, device), device)), default=0)
    devices.reset_peak(device)  # pragma: no cover - gpu
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    call()
    devices.synchronize(device)
    return devices.peak_memory(device) - before if device.type == "cuda" else None


def profile(call: Callable, device: torch.device, *, trace: Path | None = None, steps: int = 3,
            rows: int = 10) -> dict:
    """The `rows` operations that take most of the time of `steps` calls, and memory over time.

    {"seconds", "steps", "clock", "operations": [{"name", "calls", "ms", "share"}], "memory": [[ms, bytes]]}:
    seconds are of all steps, warm and without the profiler; ms is an operation's own, without what it calls;
    share is of all operations' time. `trace` gets the Chrome trace (for Perfetto): large, never committed.
    """
    for count in (2, steps):
        devices.synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            call()
        devices.synchronize(device)
        seconds = time.perf_counter() - start
    found = record(call, device, steps)
    if trace:
        trace.parent.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(trace))
    clock = "device" if device.type == "cuda" else "cpu"
    own = {e.key: (getattr(e, f"self_{clock}_time_total"), e.count) for e in found.key_averages()
           if e.key != "[memory]"}
    total = sum(spent for spent, _ in own.values()) or 1.0
    largest = sorted(own.items(), key=lambda item: -item[1][0])[:rows]
    return {"seconds": seconds, "steps": steps, "clock": clock,
            "operations": [{"name": name, "calls": calls, "ms": spent / 1e3, "share": spent / total}
                           for name, (spent, calls) in largest],
            "memory": thin([[at / 1e6, held] for at, held in memory(found, device)])}


def thin(line: list, points: int = 200) -> list:
    """At most `points` of a line of [ms, bytes]: the highest of each stretch, so that the peak stays."""
    stretch = -(-len(line) // points) or 1
    return [max(line[i:i + stretch], key=lambda point: point[1]) for i in range(0, len(line), stretch)]
