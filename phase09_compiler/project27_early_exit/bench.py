"""Measure the claims: leaving early at a stated quality, guessing without loss, the twin, the promise,
batches.
"""

import math
import tempfile

import torch
import torch.nn.functional as F

from common import hub
from common.benchmark import paired, values
from common.cli.bench import bench, break_even
from common.model import GPT

from ._model import quality
from ._see import follow
from ._trial import Trial
from .exits import Rule
from .kv_fill import bound, decode_early
from .self_speculation import speedup
from .thresholds import tokens_lost
from .token_pruning import importance, prefill
from .train import rules_of

SPEED = {"unit": "tok/s", "better": "higher"}
RATIO = {"unit": "of the full model's", "better": "lower"}


def perplexities(pairs):
    """{figures of a claim}: pairs of (nats, nats of the baseline) by window, as perplexities."""
    ours, theirs = ([math.exp(x) for x in column] for column in zip(*pairs, strict=True))
    found = values("ours", ours, "baseline", theirs)
    mean = math.exp(sum(a - c for a, c in pairs) / len(pairs))
    low_high = paired(ours, theirs)[1]
    return found if low_high is None else {**found, "ratio": mean, "interval": widened(low_high, mean)}


def widened(interval, value):
    """An interval that holds the value: that is a mean, and the interval was of a median."""
    return min(interval[0], value), max(interval[1], value)


def bench_leaving(b, t):
    """Pages read token by token, at the threshold that was chosen on others."""
    depths = t.depths()
    head, look, turn = t.prices()
    checks = sum(sum(n <= depth for n in t.ways) for depth in depths) / len(depths)
    due = bound(depths, t.top, head, look, checks, turn)
    run = b.compare({"to the top": t.plain, "early": t.early}, memory=False, check=alike(b),
                    warm=b.mode != "smoke", budget=b.pick(smoke=0.5, quick=15, full=240))  # fmt: skip
    gain = run.speedup("early")[0]
    settings = {"blocks a token": sum(depths) / len(depths), "of": t.top, "head, in blocks": head,
                "a look, in blocks": look, "pages": len(t.pages), "tokens of each": t.n}  # fmt: skip
    b.claim(
        "speed",
        "At a cost of at most 2 % in perplexity, tokens are read and answered at least 1.5 times as "
        "fast, which is a third less time",
        headline=True,
        goal=(">=", 1.5),
        bound=bound(depths, t.top),
        prediction=due,
        measured=run.figures("early", work=t.n * len(t.pages)),
        settings=settings,
        why="the bound is the share of blocks left out; the prediction has head and looks too",
        **SPEED,
    )
    b.claim(
        "formula",
        "Measured speed is at least 0.85 times the formula with head and looks",
        bound=1.0,
        unit="of the formula",
        better="higher",
        goal=(">=", 0.85),
        measured=values("early", [gain / due]),
        settings={"formula": due},
        why="what is missing is filling, and what a step does besides blocks",
    )
    found = quality(
        t.model, t.town.held[: b.pick(smoke=200, quick=4_000, full=20_000)], t.rule, t.sizes.context
    )
    b.claim("quality", "With the same threshold, perplexity on unseen pages is at most 1.02 times the full "
            "model's",
            goal=("<=", 1.02), measured=perplexities(found["by window"]), **RATIO,
            settings={key: found[key] for key in ("loss", "full", "same", "depth")},
            why="both read the same tokens; the interval is over windows")  # fmt: skip


def alike(b):
    """A check: of all tokens at least 95 % come out the same (a tiny untrained model: any)."""
    least = b.pick(smoke=0.0, quick=0.95, full=0.95)
    return lambda a, c: (torch.cat(a) == torch.cat(c)).float().mean().item() >= least


def bench_guessing(b, t):
    """Self-speculation; way out and number of guesses were chosen on other pages."""
    n, K = t.best
    (_, taken), (guess, check) = t.guessed(n, K), t.costs(n, K)
    mean = sum(taken) / len(taken)
    a = acceptance(mean, K)
    due = speedup(a, K, guess, check)
    run = b.compare({"one by one": t.one_by_one, "guesses": lambda: t.guessed(n, K)[0]}, memory=False,
                    check=lambda x, y: all(map(t.is_tie, t.pages, x, y)), warm=b.mode != "smoke",
                    budget=b.pick(smoke=0.5, quick=15, full=240))  # fmt: skip
    settings = {"guesses after blocks": n, "guesses a round": K, "tokens a round": mean, "a guess holds": a,
                "cost of a guess": guess, "cost of what is left of a check": check}  # fmt: skip
    b.claim("lossless", "Guessing with its own first blocks, the model writes the same text, token for "
            "token, at least 1.3 times as fast", goal=(">=", 1.3), prediction=due,
            bound=(K + 1) / (K * n / t.top + 1),
            measured=run.figures("guesses", work=t.n * len(t.pages)), settings=settings, **SPEED,
            why="the bound is guesses that all hold and cost their share of blocks")  # fmt: skip
    b.claim(
        "formula-lossless",
        "Measured speed is at least 0.85 times the formula, with guess and check at their measured price",
        unit="of the formula",
        better="higher",
        goal=(">=", 0.85),
        bound=1.0,
        measured=values("guesses", [run.speedup("guesses")[0] / due]),
        settings={"formula": due},
    )
    bench_transformers(b, t, n, K)


def acceptance(mean, K):
    """The chance a with which 1 + a + … + a^K is so many tokens a round, by halving."""
    low, high = 0.0, 1.0
    for _ in range(50):
        a = (low + high) / 2
        low, high = (a, high) if sum(a**i for i in range(K + 1)) < mean else (low, a)
    return a


def bench_transformers(b, t, n, K):
    """The same weights in `transformers`, which has self-speculation too, without translators."""
    sentence = (
        "Ours is at least 1.3 times as fast as the self-speculation of `transformers`, after as many blocks"
    )
    if not b.library("transformers"):
        b.not_run("transformers", sentence, goal=(">=", 1.3), why="transformers is not installed", **SPEED)
        return
    from transformers import AutoModelForCausalLM

    plain = GPT(t.model.config)
    plain.load_state_dict({key: x for key, x in t.model.state_dict().items() if not key.startswith("exits.")})
    with tempfile.TemporaryDirectory() as folder:
        hub.save(plain, folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval().to(b.device)

    def their():
        rows = []
        for page in t.pages:
            tokens = page[None, : t.T]
            answer = theirs.generate(tokens, assistant_early_exit=n, max_new_tokens=t.n, min_new_tokens=t.n,
                                     do_sample=False, pad_token_id=0, eos_token_id=None,
                                     attention_mask=torch.ones_like(tokens))  # fmt: skip
            rows.append(answer[0, t.T :].tolist())
        return rows

    run = b.compare({"transformers": their, "ours": lambda: t.guessed(n, K)[0]}, memory=False,
                    check=lambda x, y: all(map(t.is_tie, t.pages, x, y)), warm=b.mode != "smoke",
                    budget=b.pick(smoke=0.5, quick=15, full=120))  # fmt: skip
    b.claim("transformers", sentence, goal=(">=", 1.3), measured=run.figures("ours", work=t.n * len(t.pages)),
            settings={"guesses after blocks": n, "guesses a round, ours": K}, **SPEED)  # fmt: skip


@torch.no_grad()
def bench_twin(b, t):
    """The full model beside a copy of the base that was trained as long, without ways out."""
    sentence = ("At the top the model's perplexity is within 1 % of that of a twin which was trained as long "
                "without ways out")  # fmt: skip
    if b.mode == "quick" or t.source.ready:
        b.not_run("twin", sentence, goal=("<=", 1.01), why="only a full bench trains the twin", **RATIO)
        return
    with torch.enable_grad():
        twin = t.twin()
    T = t.sizes.context
    windows = t.town.held.unfold(0, T + 1, T)
    nats = [[F.cross_entropy(model(row[None, :-1])[0].float(), row[1:]).item() for row in windows]
            for model in (t.model, twin)]  # fmt: skip
    b.claim("twin", sentence, goal=("<=", 1.01), measured=perplexities(list(zip(*nats, strict=True))),
            settings={"updates": t.sizes.steps, "with ways out": sum(nats[0]) / len(windows),
                      "twin": sum(nats[1]) / len(windows)}, unit="of the twin's", better="lower")  # fmt: skip


def bench_promise(b, t):
    """A threshold that was certified on some pages, on others."""
    tolerance = t.sizes.tolerance
    sentence = (
        f"A threshold certified for at most {tolerance:.0%} of tokens that come out differently keeps that"
    )
    (threshold, rule) = rules_of(t.model, t.town, t.sizes, ("probe",))["probe"]
    if threshold is None:
        b.not_run("promise", sentence, goal=("<=", tolerance), unit="of the tokens", better="lower",
                  why="no threshold is certified on so little text")  # fmt: skip
        return
    T = max(8, t.sizes.context // 8)
    rows = t.town.held[: len(t.town.held) // T * T].view(-1, T)[: b.pick(smoke=20, quick=150, full=2_000)]
    lost = tokens_lost(t.model, rows, rule, 64).mean().item()
    b.claim("promise", sentence, goal=("<=", tolerance), unit="of the tokens", better="lower",
            measured=values("fresh pages", [lost]),
            settings={"threshold": threshold, "chance": t.sizes.chance},
            why="the test errs with that chance; it takes no chances with the rest")  # fmt: skip


def bench_batch(b, t):
    """Rows that leave together, until it does not pay any more."""
    n, rows = b.pick(smoke=4, quick=24, full=64), []
    for B in b.pick(smoke=(1, 2), quick=(1, 2, 8), full=(1, 2, 4, 8, 16)):
        tokens = t.source.prompts(B, t.T)
        sides = {"to the top": lambda x=tokens: decode_early(t.model, x, n, Rule())[0],
                 "early": lambda x=tokens: decode_early(t.model, x, n, t.rule)[0]}  # fmt: skip
        run = b.compare(sides, check=lambda a, c: a.shape == c.shape, warm=False, memory=False,
                        budget=b.pick(smoke=0.3, quick=4, full=40))  # fmt: skip
        value, interval = run.speedup("early")
        rows.append({"at": B, "ratio": value, "interval": interval, "run": run})
    even = break_even([(row["at"], row["ratio"]) for row in rows])
    sweep = [{key: row[key] for key in ("at", "ratio", "interval")} for row in rows]
    b.claim("batch", "Two rows that leave together still gain", goal=(">=", 1), **SPEED,
            measured=rows[1]["run"].figures("early", work=2 * n),
            settings={"sweep": {"over": "rows of a batch", "rows": sweep, "break_even": even}},
            why="the last row to be sure decides; each row writes on, so the texts part")  # fmt: skip


@torch.no_grad()
def bench_pruning(b, t):
    """Half of a prompt's tokens climb on after half of the ways out."""
    T, n = b.pick(smoke=12, quick=224, full=448), b.pick(smoke=4, quick=16, full=32)
    after, pages = t.ways[len(t.ways) // 2], list(t.source.prompts(b.pick(smoke=1, quick=2, full=12), T + n))
    shares = {after: 0.5}
    sides = {"all": lambda: [t.model.hidden(page[None, :T])[:, -1] for page in pages],
             "half": lambda: [prefill(t.model, page[None, :T], shares)[0] for page in pages]}  # fmt: skip
    run = b.compare(sides, check=lambda a, c: len(a) == len(c), memory=False,
                    budget=b.pick(smoke=0.5, quick=6, full=60))  # fmt: skip
    nats = [[follow(t.model, page, T, share, importance) for page in pages] for share in (shares, {})]
    b.claim("pruning", f"Prompts of which half the tokens stop after {after} blocks are read at least 1.3 "
            "times as fast", goal=(">=", 1.3), measured=run.figures("half", work=T * len(pages)), **SPEED,
            bound=t.top / (after + 0.5 * (t.top - after)),
            settings={"prompt": T, "nats of what follows": sum(nats[0]) / len(pages),
                      "not pruned": sum(nats[1]) / len(pages)})  # fmt: skip
    b.claim(
        "pruning-quality",
        "What follows such a prompt costs at most 1.02 times the perplexity",
        goal=("<=", 1.02),
        measured=perplexities(list(zip(*nats, strict=True))),
        **RATIO,
    )


def main(b):
    t = Trial(b)
    bench_leaving(b, t)
    bench_guessing(b, t)
    bench_twin(b, t)
    bench_promise(b, t)
    bench_batch(b, t)
    bench_pruning(b, t)
    b.not_run(
        "h200",
        "On an H200, each way out recorded as a graph, at least 1.25 times as fast without loss",
        goal=(">=", 1.25),
        why="needs a CUDA device, and a model trained for it",
        **SPEED,
    )


def profiled(b):
    return Trial(b).early


if __name__ == "__main__":
    bench(main, profiled)
