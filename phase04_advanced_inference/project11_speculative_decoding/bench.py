"""Measure the claims: a trained pair, the formula, text that repeats, `transformers`, batches, exactness."""

import tempfile
from dataclasses import replace
from types import SimpleNamespace

import torch

from common import hub
from common.benchmark import values
from common.cli.bench import bench, break_even
from common.model import GPT, ModelConfig

from . import _fit, train
from ._break import chi_square, count
from ._pair import one_forward, written
from ._sides import (
    KS,
    MOST,
    SURE,
    clock,
    costs,
    counted,
    greedy,
    guessed,
    length,
    plain,
    same,
    setup,
    while_sure,
)
from .drafts import ModelDraft, PromptLookup
from .speculative import Draft, expected_tokens, speedup

SPEED = {"unit": "tok/s", "better": "higher"}


def bench_pair(b, s):
    """The base with its draft, alone; the number of guesses was chosen on other prompts, by the formula."""
    c, v = costs(b, s)
    a, _ = counted(s, s.tune, lambda size: ModelDraft(s.small, 4, size=size))
    K = max(KS, key=lambda K: speedup(a, K, c, v[K]))
    b.say(f"a {a:.2f}, c {c:.3f}, v {v[K]:.2f}: {K} guesses a round")
    sides = {"one by one": lambda: plain(s, s.prompts),
             "guesses": lambda: guessed(s, s.prompts, lambda size: ModelDraft(s.small, K, size=size)),
             "while sure": lambda: guessed(s, s.prompts, while_sure(s))}
    run = b.compare(sides, check=same(s, s.prompts), warm=b.mode != "smoke", memory=False,
                    budget=b.pick(smoke=0.5, quick=20, full=240))  # fmt: skip
    a, brought = counted(s, s.prompts, lambda size: ModelDraft(s.small, K, size=size))
    tokens = sum(length(s, ids) for ids in s.prompts)
    gain, (right, more) = run.speedup("guesses")[0], counted(s, s.prompts, while_sure(s))
    due, classic = speedup(a, K, c, v[K]), speedup(a, K, c)
    settings = {"guesses a round": K, "acceptance a": a, "tokens a round": brought, "cost of a guess c": c,
                "cost of a check v": v[K], "new tokens": tokens, "texts": len(s.prompts),
                "fixed, times as fast": gain}  # fmt: skip
    b.claim("speed", "With a trained pair at the base's size, batch 1, greedy text comes at least 1.8 times "
            "as fast, token for token the same", headline=True, goal=(">=", 1.8), **SPEED,
            measured=run.figures("while sure", "one by one", work=tokens), bound=more, prediction=due,
            settings={**settings, "at most": MOST, "stops under": SURE, "while sure, a": right,
                      "while sure, tokens a round": more},
            why="the bound is guessing for nothing; the prediction has as many guesses in every round, at "
            "the price measured")  # fmt: skip
    for id, value, words in (("formula", due, "with acceptance, guess and check at their measured price"),
                             ("formula-classic", classic, "in which a check costs one step")):
        b.claim(id, f"Measured speed is at least 0.85 times the formula {words}", unit="of the formula",
                better="higher", goal=(">=", 0.85), measured=values("guesses", [gain / value]), bound=1.0,
                settings={**settings, "formula": value}, why="what is missing is Python between forwards"
                if id == "formula" else "K + 1 rows cost more than one: see v")  # fmt: skip
    return K


def bench_text(b, s, K):
    """The draft, which learnt from what the model writes, beside one that read what the model read."""
    sentence = "A draft that learnt what the model writes is right at least 1.2 times as often as one that " \
               "read the corpus"  # fmt: skip
    claim = {"unit": "of the guesses", "better": "higher", "goal": (">=", 1.2)}
    if b.mode != "full":
        b.not_run("text", sentence, why="only a full bench has the minutes for a second draft", **claim)
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = replace(train.PRESETS["cpu"], text="corpus")
        read, _ = _fit.fit("draft", s.model, s.words, sizes, b.device, folder, say=b.say)

    def shares(draft):
        return [counted(s, [ids], lambda size: ModelDraft(draft, K, size=size))[0] for ids in s.prompts]

    b.claim("text", sentence, **claim, settings={"guesses a round": K, "tokens to learn from": sizes.tokens},
            measured=values("own text", shares(s.small), "corpus", shares(read)),
            why="greedy text is what the model finds likeliest, over and over; a corpus is not")


def bench_lookup(b, s):
    """Text that comes again, guessed by looking it up."""
    K = 10
    sides = {"one by one": lambda: plain(s, s.copies),
             "looked up": lambda: guessed(s, s.copies, lambda size: PromptLookup(K))}
    run = b.compare(sides, check=same(s, s.copies), warm=b.mode != "smoke", memory=False,
                    budget=b.pick(smoke=0.5, quick=15, full=100))  # fmt: skip
    a, brought = counted(s, s.copies, lambda size: PromptLookup(K))
    b.claim("lookup", "On text that repeats itself, looking it up makes it at least twice as fast",
            goal=(">=", 2), measured=run.figures("looked up", work=s.n * len(s.copies)), **SPEED,
            bound=brought, settings={"guesses a round": K, "acceptance": a, "tokens a forward": brought},
            why="a page that was read before, begun again; the bound counts forwards")  # fmt: skip


def bench_transformers(b, s, K):
    """The same pair in `transformers`: assisted generation, by its defaults and with as many guesses."""
    sentence = "At least 1.3 times as fast as assisted generation in `transformers`, the same weights"
    if not b.library("transformers"):
        b.not_run("transformers", sentence, goal=(">=", 1.3), why="transformers is not installed", **SPEED)
        return
    from transformers import AutoModelForCausalLM

    theirs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("large", s.model), ("small", s.small)):
            hub.save(model, f"{folder}/{name}")
            theirs.append(AutoModelForCausalLM.from_pretrained(f"{folder}/{name}").eval().to(b.device))
    large, small = theirs

    def assisted(**how):
        usual = {"num_assistant_tokens_schedule": "constant", "num_assistant_tokens": 20,
                 "assistant_confidence_threshold": 0.4}  # fmt: skip
        for name, value in {**usual, **how}.items():
            setattr(small.generation_config, name, value)
        rows = []
        for ids in s.prompts:
            tokens, n = torch.tensor([ids], device=b.device), length(s, ids)
            rows.append(large.generate(tokens, assistant_model=small, max_new_tokens=n, min_new_tokens=n,
                                       do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(tokens)
                                       )[0, len(ids) :].tolist())  # fmt: skip
        return rows

    same_k = {"num_assistant_tokens_schedule": "constant", "num_assistant_tokens": K,
              "assistant_confidence_threshold": 0.0}  # fmt: skip
    sides = {"transformers, its defaults": assisted, f"transformers, {K} guesses": lambda: assisted(**same_k),
             "ours": lambda: guessed(s, s.prompts, while_sure(s))}
    run = b.compare(sides, check=same(s, s.prompts), warm=b.mode != "smoke", memory=False,
                    budget=b.pick(smoke=0.5, quick=20, full=150))  # fmt: skip
    rival = min(list(sides)[:2], key=lambda name: run.sides[name].median)
    b.claim("transformers", sentence, goal=(">=", 1.3), **SPEED, settings={"guesses a round": K},
            measured=run.figures("ours", rival, work=sum(length(s, ids) for ids in s.prompts)),
            why="the faster of its two settings; both sides feed the same tokens")  # fmt: skip


class Controlled(ModelDraft):
    """A small model that pays for its guesses; what it guesses is the truth, with probability a."""

    def __init__(self, model, K, size, truth, a):
        super().__init__(model, K, 1, size)
        self.truth, self.a, self.chance = truth, a, torch.Generator().manual_seed(0)

    def guess(self, texts, logits):
        shares = super().guess(texts, logits)
        [text] = texts
        right = self.truth[text.n_new + len(text.guesses) - 1]
        lucky = torch.rand(1, generator=self.chance).item() < self.a
        text.guesses[-1] = right if lucky else (right + 1) % logits.size(1)
        return shares


def bench_controlled(b):
    """The 124M shape, untrained, with a one-layer draft whose acceptance is set, not earned."""
    big = {"vocab_size": 50304, "n_layer": 12, "n_head": 12, "n_kv_head": 12, "d_model": 768, "d_ff": 2048}
    low = {"vocab_size": 97, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    sizes, narrow = b.pick(smoke=low, quick=big, full=big), b.pick(smoke=16, quick=64, full=64)
    torch.manual_seed(0)
    model, small = (GPT(ModelConfig(**{**sizes, **more}, max_seq_len=512, tie_embeddings=True)).eval()
                    .to(b.device) for more in ({}, {"n_layer": 1, "d_model": narrow, "n_head": 4,
                                                    "n_kv_head": 4, "d_ff": 2 * narrow}))  # fmt: skip
    n, K, a = b.pick(smoke=10, quick=32, full=96), 4, 0.8
    s = SimpleNamespace(model=model, small=small, n=n, lengths={})
    prompt = torch.randint(sizes["vocab_size"], (32,), generator=torch.Generator().manual_seed(0)).tolist()
    [truth] = plain(s, [prompt])
    step = clock(b, one_forward(model, 1, 32))
    c, v = (clock(b, one_forward(one, T, 32)) / step for one, T in ((small, 1), (model, K + 1)))
    sides = {"one by one": lambda: plain(s, [prompt]),
             "guesses": lambda: guessed(s, [prompt], lambda size: Controlled(small, K, size, truth, a))}
    run = b.compare(sides, check=same(s, [prompt]), warm=False, memory=False,
                    budget=b.pick(smoke=0.5, quick=15, full=120))  # fmt: skip
    b.claim("controlled", "At 124M, with acceptance set to 0.8 and not earned, at least 1.8 times as fast",
            goal=(">=", 1.8), measured=run.figures("guesses", work=n), **SPEED, bound=expected_tokens(a, K),
            prediction=speedup(a, K, c, v),
            settings={"acceptance, set": a, "guesses a round": K, "cost of a guess c": c,
                      "cost of a check v": v, "new tokens": n},
            why="untrained weights: the draft is told the text and pays for a small model")  # fmt: skip


def bench_batch(b, s, K):
    """Texts in a forward, until guessing does not pay any more."""
    n, rows = b.pick(smoke=6, quick=24, full=64), []
    for B in b.pick(smoke=(1, 2), quick=(1, 4, 16), full=(1, 2, 4, 8, 16, 32)):
        prompts = [(s.tune + s.prompts)[i % len(s.tune + s.prompts)] for i in range(B)]

        def write(draft, prompts=prompts):
            return written(s.model, prompts, [greedy(n)] * len(prompts), draft)[0]

        sides = {"one by one": lambda w=write: w(Draft()),
                 "guesses": lambda w=write, B=B: w(ModelDraft(s.small, K, B, s.T + n))}  # fmt: skip
        run = b.compare(sides, check=same(s, prompts), warm=False, memory=False,
                        budget=b.pick(smoke=0.3, quick=5, full=30))  # fmt: skip
        value, interval = run.speedup("guesses")
        rows.append({"at": B, "ratio": value, "interval": interval, "run": run})
    chosen = next(row for row in rows if row["at"] == b.pick(smoke=2, quick=4, full=4))
    even = break_even([(row["at"], row["ratio"]) for row in rows])
    sweep = [{key: row[key] for key in ("at", "ratio", "interval")} for row in rows]
    b.claim("batch", "With four texts in a forward it still does not lose", goal=(">=", 1), **SPEED,
            measured=chosen["run"].figures("guesses", work=n * chosen["at"]),
            settings={"sweep": {"over": "texts in a forward", "rows": sweep, "break_even": even},
                      "guesses a round": K},
            why="many rows are bound by arithmetic, and wrong guesses are arithmetic")  # fmt: skip


def bench_distribution(b, s):
    """Draws of one token through the rule, and through the one that seems right."""
    n = b.pick(smoke=2000, quick=20_000, full=20_000)
    p, counts = count(s.model, s.small, s.prompts[0], n)
    chances = {name: chi_square(found, p) for name, found in counts.items()}
    b.claim("distribution", "Drawn text follows the model: chi-square over 20,000 draws, p above 0.01",
            unit="p", better="higher", goal=(">=", 0.01), measured=values("exact", [chances["exact"]]),
            settings={"draws": n, **{f"p, {name}": chance for name, chance in chances.items()}},
            why="longest match, counted in the same way, is refused")  # fmt: skip


def main(b):
    s = setup(b)
    K = bench_pair(b, s)
    bench_text(b, s, K)
    bench_lookup(b, s)
    bench_transformers(b, s, K)
    bench_controlled(b)
    bench_batch(b, s, K)
    bench_distribution(b, s)
    b.not_run("h200", "On an H200, a step recorded as a graph, at least 2.0 times as fast at batch 1",
              goal=(">=", 2), why="needs a CUDA device, and a pair trained for it", **SPEED)


def profiled(b):
    s = setup(b)
    return lambda: guessed(s, s.prompts[:1], lambda size: ModelDraft(s.small, 4, size=size))


if __name__ == "__main__":
    bench(main, profiled)
