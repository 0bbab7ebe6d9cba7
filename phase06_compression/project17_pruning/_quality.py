"""What pruning costs, measured: methods against magnitude on unseen text; what a short training mends."""

import copy
import tempfile

import numpy as np

from common.benchmark import values
from common.cli import chain
from common.cli.paths import models
from common.results import Figure
from phase01_foundation.project03_pretrain.town import ids_of

from . import _attempts, _lab, _tune, structured

WORSE = {"unit": "added perplexity", "better": "lower"}
HEADLINE = "At 50 % Wanda adds at most a quarter of the perplexity that magnitude adds"
# id: (sentence, method, sparsity, pattern, goal): against magnitude, within layers, the same zeros
AGAINST = {
    "wanda-50": (HEADLINE, "wanda", 0.5, None, 0.25),
    "wanda-30": ("At 30 % it adds at most half", "wanda", 0.3, None, 0.5),
    "wanda-60": ("At 60 % it adds at most a quarter", "wanda", 0.6, None, 0.25),
    "wanda-24": ("Two of four left, it adds at most half", "wanda", 0.5, (2, 4), 0.5),
    "sparsegpt-50": ("At 50 % SparseGPT adds at most a quarter", "sparsegpt", 0.5, None, 0.25),
    "sparsegpt-24": ("Two of four left, SparseGPT adds at most a quarter", "sparsegpt", 0.5, (2, 4), 0.25),
    "wanda-matrix": ("At 50 %, Wanda's worth compared over the matrix adds at most a quarter",
                     "wanda over the matrix", 0.5, None, 0.25),
    "wanda-fitted": ("At 50 %, with Wanda's mask and what is left fitted anew, at most a quarter",
                     "wanda, fitted", 0.5, None, 0.25),
    "wanda-units": ("The same model with inputs of different size: at 50 % Wanda adds at most a quarter",
                    "wanda", 0.5, None, 0.25),
}
METHODS = {**_lab.METHODS, **_attempts.METHODS}
PRICE = {"unit": "perplexity", "better": "lower"}
CONTROL = "whole, learnt on"
AFTER = "heads and neurons, after a training on at most 5 % of the tokens: perplexity at most"
GOALS = {
    "recovery": (f"Without 30 % of the blocks' weights, {AFTER} 1.03 of the whole model's", 1.03),
    "recovery-control": ("The same beside the whole model, trained on as many tokens: at most 1.06", 1.06),
    "recovery-all": (f"Without 30 % of all weights, embedding counted, {AFTER} 1.03 of the whole model's",
                     1.03),
    "recovery-all-control": ("The same beside the whole model, trained on as many: at most 1.06", 1.06),
}  # fmt: skip


def interval(ours, theirs, base, resamples=2000):
    """95 % of the ratio of two mean increases of loss over the same texts, by the percentile bootstrap."""
    ours, theirs = (np.subtract(x, base) for x in (ours, theirs))
    at = np.random.default_rng(0).integers(0, len(base), (resamples, len(base)))
    found = ours[at].mean(1) / theirs[at].mean(1)
    return tuple(float(end) for end in np.quantile(found, [0.025, 0.975]))


def base_of(b):
    """(model, tokenizer, calibration set, texts to judge by); None: there is no base model yet."""
    folder = models() / "base"
    if not chain.whole(folder):
        return None
    windows, length, judged, context = b.pick(smoke=(2, 24, 2, 32), quick=(8, 256, 4, 512),
                                              full=(64, 256, 64, 512))  # fmt: skip
    _, model, words = _lab.plain_model(str(folder), b.say)
    context = min(context, model.config.max_seq_len)
    return (model, words, _lab.texts(words, windows, length),
            _lab.texts(words, judged, context, _lab.HELD_OUT))  # fmt: skip


def bench_quality(b):
    """Perplexity after each method, against magnitude with as many zeros."""
    made = base_of(b)
    if made is None:
        for name, (sentence, *_, goal) in AGAINST.items():
            b.not_run(name, sentence, goal=("<=", goal), headline=name == "wanda-50",
                      why="no models/base yet: ./thirty run 3", **WORSE)  # fmt: skip
        return
    model, _, batches, judged = made
    units = _attempts.in_other_units(model)
    base, seen = _lab.losses(model, judged), {}
    whole = float(np.exp(np.mean(base)))
    asked = b.pick(smoke=["wanda-50"], quick=["wanda-50", "sparsegpt-50", "wanda-24"], full=list(AGAINST))
    for name in asked:
        sentence, method, share, pattern, goal = AGAINST[name]
        start, lost = (units if name == "wanda-units" else model), {}
        for side in ("magnitude", method):
            key = side, share, pattern, start is units
            if key not in seen:
                made = METHODS[side](copy.deepcopy(start), batches, share, pattern)
                seen[key] = _lab.losses(made, judged)
            lost[side] = seen[key]
        worse = {side: float(np.exp(np.mean(x))) - whole for side, x in lost.items()}
        b.say(f"{name}: magnitude {worse['magnitude']:+.4f}, {method} {worse[method]:+.4f}")
        ratio = worse[method] / worse["magnitude"]
        low, high = interval(lost[method], lost["magnitude"], base)
        b.claim(name, sentence, goal=("<=", goal), headline=name == "wanda-50", **WORSE,
                measured={"baseline": Figure("magnitude", worse["magnitude"]), "ratio": ratio,
                          "ours": Figure(method, worse[method]), "samples": lost,
                          "interval": (min(low, ratio), max(high, ratio))},
                why="the interval is over the texts judged, for one calibration set; samples are losses",
                settings={"perplexity of the whole": whole, "share": share, "calibration": len(batches),
                          "pattern": "of".join(map(str, pattern)) if pattern else "none",
                          "judged": len(judged)})  # fmt: skip


def trained(model, ids, plan):
    """A copy of a model after a training."""
    made = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        _tune.recover(made, ids, plan, folder)
    return made


def bench_recovery(b):
    """Heads and neurons go: perplexity after a short training, beside the model that was, and a control."""
    made = base_of(b)
    if made is None or b.mode == "quick":
        why = "no models/base yet: ./thirty run 3" if made is None else "nine trainings: --full"
        for name, (sentence, goal) in GOALS.items():
            b.not_run(name, sentence, goal=("<=", goal), why=why, **PRICE)
        return
    model, words, batches, judged = made
    whole, cuts, step = _lab.perplexity(model, judged), {}, b.pick(smoke=1, quick=16, full=16)
    for name, share in (("recovery", 0.3), ("recovery-all", _lab.of_blocks(model, 0.3))):
        groups, neurons = structured.sizes(model.config, share, step)
        cuts[name] = structured.apply(copy.deepcopy(model), batches, groups, neurons)
    before = {name: _lab.perplexity(cut, judged) for name, cut in cuts.items()}
    found = {name: [] for name in (*cuts, CONTROL)}
    for seed in b.pick(smoke=(0,), quick=(0,), full=(0, 1, 2)):
        plan = b.pick(smoke=_tune.Plan(2, batch_size=2, context=16, seed=seed),
                      quick=_tune.Plan(seed=seed), full=_tune.Plan(seed=seed))  # fmt: skip
        ids = ids_of(words, _lab.LEARN, plan.text)
        for name, start in {**cuts, CONTROL: model}.items():
            found[name].append(_lab.perplexity(trained(start, ids, plan), judged))
        b.say(f"seed {seed}: whole {whole:.4f}, " + ", ".join(f"{k} {v[-1]:.4f}" for k, v in found.items()))
    for name, cut in cuts.items():
        settings = {"before the training": before[name], "tokens": plan.steps * plan.tokens,
                    **_lab.shares(cut, model)}  # fmt: skip
        for tail, level in (("", [whole] * len(found[name])), ("-control", found[CONTROL])):
            sentence, goal = GOALS[name + tail]
            beside = CONTROL if tail else "whole"
            b.claim(name + tail, sentence, goal=("<=", goal), settings=settings, **PRICE,
                    measured=values("pruned, learnt on", found[name], beside, level),
                    why="samples are seeds of the training; three give no interval")  # fmt: skip
