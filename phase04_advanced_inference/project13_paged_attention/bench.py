"""Measure the claims: what is wasted, how many fit, what is shared; how fast attention is over pages."""

import statistics
import time
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F

from common.benchmark import values
from common.cli.bench import bench
from common.model import GPT, ModelConfig, attend, set_attend

from . import paged_attention
from ._gpu import bench_gpu
from ._lab import WatchedPages, WatchedSlots, blank, lengths_of, over_lives, over_time, served
from ._see import counted_savings
from .block_manager import BlockManager, blocks_for, expected_waste, shared_savings
from .paged_attention import PagedStore, View, gathered, paged

FAST = {"unit": "GB/s", "better": "higher"}


def requests(b):
    count, median, longest = b.pick(smoke=(10, 8, 60), quick=(96, 200, 1000), full=(256, 300, 2000))
    return [([i % 90 + 1] * (3 + i % 29), n)
            for i, n in enumerate(lengths_of(count, median=median, longest=longest))]  # fmt: skip


def bench_memory(b):
    """Equal memory, the same requests, blocks of 16: what is empty, and how many run at a time."""
    rows, size, asked = b.pick(smoke=2, quick=8, full=16), b.pick(smoke=2, quick=16, full=16), requests(b)
    longest = max(len(ids) + n for ids, n in asked)
    model = blank(context=longest + 1)
    slots = WatchedSlots(model, rows, longest)
    pages = WatchedPages(model, blocks_for(rows * longest, size), size)
    right = served(slots, model, asked, max_batch=rows)[1]
    answers = served(pages, model, asked, max_batch=16 * rows)[1]
    (fits, _, reserved), (most, mean, empty) = over_time(slots.log), over_time(pages.log)
    expected = expected_waste(mean, size)
    settings = {"requests": len(asked), "longest": longest, "block": size, "tokens of memory": rows * longest,
                "tokens a running text holds, mean": mean, "empty where the longest is reserved": reserved,
                **by_length(size)}  # fmt: skip
    b.claim("waste", f"Of the room that running texts take, which hold {mean:.0f} tokens on average, at most "
            f"4 % is empty in blocks of {size}", headline=True, unit="of the room", better="lower",
            goal=("<=", 0.04), prediction=expected, settings=settings, measured=values("paged", [empty]),
            only=f"from {12 * (size - 1)} tokens a text on", why="only the last block of a text is not full: "
            "(size - 1) / 2 places, however long the text is")  # fmt: skip
    b.claim("formula", "That is at most 1.1 times the formula, (size - 1) / 2 empty places a text", goal=(
            "<=", 1.1), unit="times", better="lower", measured=values("paged", [empty / expected]),
            settings=settings, why="lengths fall alike on all places of a block")  # fmt: skip
    b.claim("concurrent", "At least twice as many texts run at a time in the same memory", unit="texts",
            better="higher", goal=(">=", 2), measured=values("paged", [most], "reserved", [fits]),
            settings=settings, prediction=longest / mean * (1 - expected),
            why="a text takes what it holds, not the longest that may come")  # fmt: skip
    b.claim("equal", "The tokens are those of the contiguous slots", unit="answers that differ",
            better="lower", goal=("==", 0), settings={"requests": len(asked)},
            measured=values("paged", [float(sum(x != y for x, y in zip(answers, right, strict=True)))]),
            why="the tests hold it in float64, with forks, cancellations and preemptions")  # fmt: skip


def by_length(size):
    """What is empty while a text grows to these lengths, counted; the last is PROJECTS' own case."""
    return {f"empty while it grows to {n} tokens": over_lives([n], size)[1] for n in (30, 100, 360, 1000)}


def bench_sharing(b):
    """A common beginning, and forks."""
    count, shared, total = 100, 200, 1000
    saved = {size: counted_savings(count, shared, total, size)[-1] for size in (8, 16, 64)}
    b.claim("sharing", "100 texts of 1,000 tokens with 200 in common save 19.8 % of their blocks",
            unit="of the blocks", better="higher", goal=(">=", 0.198 - 1e-9), bound=shared / total,
            measured=values("blocks of 8", [saved[8]]), prediction=shared_savings(count, shared, total),
            settings={f"saved in blocks of {size}": value for size, value in saved.items()},
            why="(1 - 1/100) x 200 / 1,000 where 200 are whole blocks; 9.8 % is what 50 texts with 100 in "
            "common save")  # fmt: skip
    manager, forks, prompt = BlockManager(2000, 16), 8, 1000
    manager.open(0, range(prompt))
    manager.reserve(0, prompt)
    for id in range(1, forks):
        manager.fork(0, id)
    for id in range(forks):
        manager.reserve(id, prompt + 1)
    tables = [manager.tables[id][: blocks_for(prompt, 16)] for id in range(forks)]
    share = statistics.fmean(manager.refs[block] > 1 for table in tables for block in table)
    b.claim("fork", "After a fork, and a token more for each, 95 % of the prompt's blocks or more are shared",
            unit="of the blocks", better="higher", goal=(">=", 0.95), measured=values("forks", [share]),
            prediction=62 / 63, settings={"forks": forks, "prompt": prompt, "block": 16},
            why="only the block that is written into is copied")


def contest(b, lengths, sizes=(16,)):
    """One decode of rows that hold so many tokens, in every layout: ({name: call}, {name: bytes moved})."""
    H, K, D = b.pick(smoke=(4, 2, 16), quick=(8, 4, 64), full=(8, 4, 64))
    draw, B, S = torch.Generator().manual_seed(0), len(lengths), max(lengths)
    positions = torch.tensor(lengths)[:, None] - 1  # (B, 1)
    own = torch.arange(S).minimum(positions)[:, None, :, None].expand(B, K, S, D)  # behind the end: the last
    k, v = (torch.randn(B, K, S, D, generator=draw).gather(2, own) for _ in "kv")
    q, mask = torch.randn(B, H, 1, D, generator=draw), None
    if min(lengths) < S:
        mask = (torch.arange(S) <= positions)[:, None, None]  # (B, 1, 1, S)
    attended = partial(F.scaled_dot_product_attention, q, attn_mask=mask, enable_gqa=True)
    sides = {"contiguous": lambda: attended(k, v)}
    once = 2 * 4 * K * D
    moved = {"contiguous": once * B * S}
    for size in sizes:
        need = [blocks_for(n, size) for n in lengths]
        blocks = iter(torch.randperm(sum(need), generator=draw).tolist())
        view = View([list(islice(blocks, n)) for n in need], size, positions)
        pools = tuple(torch.zeros(sum(need), K, size, D) for _ in "kv")
        for pool, x in zip(pools, (k, v), strict=True):
            pool[view.all[0], :, view.all[1]] = x.transpose(1, 2)
        sides[f"paged, {size}"] = partial(paged, q, *pools, view)
        moved[f"paged, {size}"] = once * sum(lengths)
        if size == 16:
            sides["gathered, 16"] = lambda pools=pools, view=view: attended(
                *(gathered(x, *view.all) for x in pools))  # fmt: skip
            moved["gathered, 16"] = 3 * once * B * S  # read, written, read again
    return sides, {name: {"bytes moved": n} for name, n in moved.items()}


def bench_attention(b):
    """One token for each of 8 rows, in every layout, where all rows are equally long."""

    def compared(S, sizes, seconds):
        sides, moved = contest(b, [S] * b.pick(smoke=2, quick=8, full=8), sizes)
        return b.compare(sides, check=1e-4, memory=False, counts=moved, budget=seconds)

    S, seconds = b.pick(smoke=64, quick=2048, full=2048), b.pick(smoke=0.5, quick=15, full=120)
    run = compared(S, (1, 16, 64), seconds)
    size = run.sides["contiguous"].counts["bytes moved"] / 1e9
    lengths = b.pick(smoke=(32,), quick=(128, 512), full=(128, 512, 1024, 4096))
    sweep = b.sweep("tokens a row", lengths, lambda S: compared(S, (16,), seconds / 3), "paged, 16")
    settings = {"rows": 8, "tokens a row": S, "sweep": sweep, **{
        f"{name}, GB/s": size / side.median for name, side in run.sides.items()}}  # fmt: skip
    if b.mode != "smoke":
        settings["this machine reads, GB/s"] = b.ceilings.read / 1e9
    b.claim("decode", f"Attention over pages of 16 in place, 8 rows of {S} tokens, is at least 0.9 times as "
            "fast as torch's over contiguous keys", goal=(">=", 0.9), settings=settings, **FAST,
            measured=run.figures("paged, 16", "contiguous", work=size),
            why="the same bytes are read; blocks lie apart, and two operations share what one does there")
    b.claim("gather", "It is faster than gathering the pages and then attending", goal=(">", 1),
            measured=run.figures("paged, 16", "gathered, 16", work=size), prediction=3.0, **FAST,
            settings=settings,
            why="a gather reads and writes every key and value before they are read")  # fmt: skip


def bench_ragged(b):
    """One token for each of 16 rows, as they are on a server: of log-normal lengths."""
    lengths = lengths_of(b.pick(smoke=3, quick=16, full=16), median=b.pick(smoke=9, quick=200, full=200),
                         longest=b.pick(smoke=60, quick=2000, full=2000))  # fmt: skip
    sides, moved = contest(b, lengths)
    run = b.compare(sides, check=1e-4, memory=False, counts=moved, budget=b.pick(smoke=0.5, quick=8, full=60))
    tokens = sum(lengths)
    b.claim("ragged", "With rows of different lengths, attention over pages is faster than torch's over "
            "contiguous keys and a mask", goal=(">", 1), unit="tokens attended/s", better="higher",
            measured=run.figures("paged, 16", "contiguous", work=tokens),
            prediction=len(lengths) * max(lengths) / tokens, settings={"rows": len(lengths), "tokens": tokens,
            "longest": max(lengths)}, why="contiguous rows are read as far as the longest reaches; of pages "
            "only what holds tokens is read")  # fmt: skip


def bench_engine(b):
    """Whole decodes, the model around them: slots, pages gathered, pages in place."""
    sizes = {"vocab_size": 97, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    torch.manual_seed(0)
    model = GPT(ModelConfig(**b.pick(smoke=sizes, quick={}, full={}), max_seq_len=512, tie_embeddings=True))
    model, count = model.eval().to(b.device), b.pick(smoke=4, quick=16, full=48)
    asked = [([i + 1] * 8, n) for i, n in enumerate(lengths_of(count, median=b.pick(
        smoke=4, quick=40, full=120), longest=b.pick(smoke=20, quick=200, full=480)))]  # fmt: skip
    longest, work = max(len(ids) + n for ids, n in asked), sum(n for _, n in asked)

    def side(make, fn):
        def call():
            set_attend(model, fn)
            return served(make(), model, asked, max_batch=16)[1]

        return call

    def pages():
        return PagedStore(model, 16 * blocks_for(longest, 16), 16)

    sides = {"slots": side(lambda: WatchedSlots(model, 16, longest), attend), "gathered": side(pages, attend),
             "in place": side(pages, paged_attention.attend)}  # fmt: skip
    run = b.compare(sides, check=lambda x, y: sum(i == j for i, j in zip(x, y, strict=True)) >= 0.9 * len(x),
                    warm=False, memory=False, budget=b.pick(smoke=0.5, quick=40, full=300))  # fmt: skip
    set_attend(model, attend)
    b.claim("engine", "Project 12's engine is at least 0.9 times as fast on pages as on slots, batches alike",
            unit="tok/s", better="higher", goal=(">=", 0.9),
            measured=run.figures("in place", "slots", work=work),
            settings={"gathered, ratio": run.speedup("gathered")[0], "requests": count, "batch": 16},
            why="attention is a part of a step; the rest is the same")  # fmt: skip


def bench_manager(b):
    """What an operation of the block manager takes with 1,000 sequences open."""
    count, manager, spent = b.pick(smoke=50, quick=1000, full=1000), BlockManager(80_000, 16), []
    for id in range(count):
        manager.open(id, range(1000))
        manager.reserve(id, 900 + id % 100)
    for turn in range(b.pick(smoke=1, quick=5, full=20)):
        for id in range(count):
            began = time.perf_counter()
            manager.reserve(id, 1001 + turn)
            spent.append(time.perf_counter() - began)
    for id in range(count):
        began = time.perf_counter()
        manager.fork(id, "fork")
        manager.reserve("fork", 1100)
        manager.close("fork")
        spent.append(time.perf_counter() - began)
    p99 = sorted(spent)[int(0.99 * len(spent))]
    b.claim("manager", "With 1,000 texts open, 99 of 100 operations on tables take less than a millisecond",
            unit="µs", better="lower", goal=("<=", 1000), measured=values("operations", [1e6 * p99]),
            settings={"median, µs": 1e6 * statistics.median(spent), "operations": len(spent)},
            why="lists of numbers; no tensor is touched")  # fmt: skip


def main(b):
    bench_memory(b)
    bench_sharing(b)
    bench_attention(b)
    bench_ragged(b)
    bench_engine(b)
    bench_manager(b)
    bench_gpu(b)


def profiled(b):
    sides, _ = contest(b, [b.pick(smoke=64, quick=2048, full=2048)] * 8)
    return sides["paged, 16"]


if __name__ == "__main__":
    bench(main, profiled)
