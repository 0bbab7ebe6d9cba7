"""Judge a base model: its surprise at several texts, in units that any model shares, and what it answers.

It takes models/base, or any model folder or name; where there is none, it trains a tiny one first. A corpus
that was split by hash is judged on its held-out documents, `wikitext/test` on all of that split.
"""

from dataclasses import dataclass
from itertools import islice

import torch

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.script import script
from common.errors import UserError
from data import corpora
from data.tinytown import TinyTown

from . import _text, probe


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of a model; empty: models/base, and where there is none, a tiny one trained now."""
    corpora: str = "tinytown,python-manual,wikitext/test,ptb/test"
    """Texts to judge by, with commas between; one that cannot be had here is left out."""
    tokens: int = 100_000
    """Tokens of each text at most."""
    questions: int = 400
    """Questions of each sort about TinyTown; 0: none."""

    def __post_init__(self):
        if self.tokens < 1 or self.questions < 0:
            raise UserError(
                f"tokens is {self.tokens} and questions {self.questions}: at least 1 and 0, please"
            )


PRESETS = {
    "smoke": Config(corpora="tinytown,python-manual", tokens=5_000, questions=40),
    "cpu": Config(),
    "gpu": Config(tokens=2_000_000),
}


def load(config, run):
    """(model, tokenizer): the one named, or models/base, or one trained now."""
    folder = chain.find("base", config.model, say=run.say)
    return hub.load(folder, device=run.device).eval(), tokenizers.load(folder)


def batches(texts, tokenizer, context, most):
    """Up to `most` tokens of the texts, an end after each, in windows of one context: (inputs, targets)
    each."""

    def ids():
        for text in texts:
            yield from tokenizer.encode(text)
            yield probe.end_id(tokenizer)

    row = torch.tensor(list(islice(ids(), most + 1)))
    size = max(1, 8192 // context)
    whole = row[: (len(row) - 1) // context * context + 1].unfold(0, context + 1, context)
    for part in whole.split(size):  # (windows, context + 1): neighbours share one token
        yield part[:, :-1], part[:, 1:]
    rest = row[len(whole) * context :]
    if len(rest) > 1:
        yield rest[None, :-1], rest[None, 1:]


def unseen(name, tokens, say):
    """The documents to judge by: the held-out ones, or all of a split that was named. UserError: not to be
    had."""
    if name != _text.TOWN and "/" in name:
        return corpora.stream(name, fallback=None, say=say)
    return (text for text, held in _text.documents(name, 8 * tokens * _text.HELD_OUT, say) if held)


def main(config, run):
    model, tokenizer = load(config, run)
    lengths, metrics, context = probe.byte_lengths(tokenizer), {}, model.config.max_seq_len
    run.say(f"{sum(p.numel() for p in model.parameters()):,} weights, context {context}\n")
    run.say(f"{'text':16} {'nats a token':>13} {'perplexity':>11} {'bits per byte':>14} {'tokens':>9}")
    for name in _text.names(config.corpora):
        try:
            texts = unseen(name, config.tokens, run.say)
            found = probe.surprise(model, batches(texts, tokenizer, context, config.tokens), lengths)
        except corpora.Absent as why:
            run.say(f"{name:16} not here ({why.reason})")
            continue
        row = "{:16} {loss:13.3f} {perplexity:11.1f} {bits_per_byte:14.4f} {tokens:9,}"
        run.say(row.format(name, **found))
        metrics[f"bits_per_byte {name}"] = found["bits_per_byte"]
    run.say("\nPerplexity is one tokenizer's own unit; bits per byte may be compared between models.")
    if config.questions:
        scores = probe.quiz(model, tokenizer, TinyTown(), config.questions)
        for name, value in scores.items():
            run.say(f"{name.replace('_', ' '):20} {value:6.1%}")
        metrics |= scores
    run.finish(metrics)


if __name__ == "__main__":
    script(main, PRESETS)
