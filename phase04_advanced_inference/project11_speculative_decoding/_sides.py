"""Both sides of the measurements: the pair and its prompts, a text one by one and with guesses, and costs."""

import statistics
import time
from types import SimpleNamespace

import torch

from common.benchmark import Stopwatch
from common.device import synchronize
from common.generate import Sampling
from common.model import GPT, ModelConfig
from phase03_core_inference.project08_kv_cache.kv_cache import KVCache, caches_for, decode

from . import train
from ._pair import Counted, Pair, is_tie, one_forward, written
from .drafts import ModelDraft

KS = (2, 3, 4, 5, 6, 8, 10)
MOST, SURE = 10, 0.4  # guesses while the draft is sure: the share that `transformers` stops at by default


def tiny(n_layer, d_model, seed):
    """A model for a smoke test."""
    torch.manual_seed(seed)
    return GPT(ModelConfig(vocab_size=97, n_layer=n_layer, n_head=4, n_kv_head=2, d_model=d_model, d_ff=48,
                           max_seq_len=128)).eval()  # fmt: skip


def setup(b):
    """The base and its draft; prompts to tune on, to measure on, and such as come again; n new tokens.

    Measured is a text until the model ends it: behind an end, a model that goes on repeats itself.
    """
    n, T = b.pick(smoke=12, quick=96, full=192), b.pick(smoke=8, quick=32, full=32)
    count, tune = b.pick(smoke=2, quick=3, full=8), b.pick(smoke=2, quick=2, full=8)
    words, ends = None, []
    if b.mode == "smoke":
        model, small = tiny(2, 32, 0).to(b.device), tiny(1, 16, 1).to(b.device)
        rows = torch.randint(97, (count + tune, T), generator=torch.Generator().manual_seed(0)).tolist()
        copies = [row * 3 for row in rows[:count]]
    else:
        pair = Pair("", "", train.PRESETS["cpu"], b.device, b.say)
        words, model, small, rows = pair.words, pair.model, pair.small, pair.prompts(count + tune, T)
        copies, ends = [ids for ids, _ in pair.copying(count, T, n)], list(words.special.values())
    s = SimpleNamespace(words=words, model=model, small=small, tune=rows[:tune], prompts=rows[tune:],
                        copies=copies, n=n, T=T, lengths={})  # fmt: skip
    for ids, answer in zip(rows, plain(s, rows), strict=True):
        s.lengths[tuple(ids)] = next((i for i, id in enumerate(answer, 1) if id in ends), n)
    return s


def length(s, ids):
    """How many new tokens are written behind a prompt."""
    return s.lengths.get(tuple(ids), s.n)


def greedy(n):
    return Sampling(max_tokens=n, temperature=0, ignore_eos=True)


def plain(s, prompts):
    """One by one: project 8's loop with its counting cache, the fastest without a compiler."""
    device, answers = s.model.embed.weight.device, []
    for ids in prompts:
        n = length(s, ids)
        caches = caches_for(s.model, KVCache, 1, len(ids) + n)
        answers.append(decode(s.model, torch.tensor([ids], device=device), n, caches)[0].tolist())
    return answers


def guessed(s, prompts, make):
    """New ids of each prompt, alone. make: tokens of the longest text -> a draft."""
    ns = [length(s, ids) for ids in prompts]
    return [written(s.model, [ids], [greedy(n)], make(len(ids) + n))[0][0]
            for ids, n in zip(prompts, ns, strict=True)]  # fmt: skip


def same(s, prompts):
    """A check: the same texts, up to ties."""
    return lambda a, c: all(is_tie(s.model, *row) for row in zip(prompts, a, c, strict=True))


def while_sure(s):
    """size -> a draft that guesses on as long as it is sure."""
    return lambda size: ModelDraft(s.small, MOST, size=size, sure=SURE)


def clock(b, call):
    """Seconds of a call: the median of several."""
    watch = Stopwatch(time.perf_counter, lambda: synchronize(b.device))
    watch(call)
    return statistics.median(watch(call)[0] for _ in range(b.pick(smoke=3, quick=15, full=41)))


def counted(s, prompts, make):
    """(acceptance, tokens a round) over these prompts."""
    drafts = [Counted(make(len(ids) + length(s, ids))) for ids in prompts]
    waiting = iter(drafts)
    guessed(s, prompts, lambda size: next(waiting))
    right, asked, rounds = (sum(getattr(d, name) for d in drafts) for name in ("right", "asked", "rounds"))
    return right / max(1, asked), 1 + right / max(1, rounds)


def costs(b, s):
    """(c, {K: v}): a guess, and a check of K guesses, in steps of the large model."""
    step = clock(b, one_forward(s.model, 1, s.T))
    c = clock(b, one_forward(s.small, 1, s.T)) / step
    return c, {K: clock(b, one_forward(s.model, K + 1, s.T)) / step for K in KS}
