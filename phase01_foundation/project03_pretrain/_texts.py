"""What the text is worth: equal numbers of tokens of clean, noisy, repeated, cleaned, real, made-up text."""

import torch

from common import plots
from data import corpora, synthetic
from data.minhash import dedupe

from . import _text
from ._lab import Lab, smooth


def texts(lab: Lab) -> dict:
    """The same number of tokens of clean, noisy, repeated and cleaned-up pages; judged on clean ones."""
    pages, share = lab.pages, 0.5
    noisy = synthetic.add_noise(pages, share, 0.1).documents
    few = pages[: max(8, len(pages) // 8)]  # a repeated text has less in it: the copies take the room
    copied = synthetic.add_copies(few, 3.0).documents
    kept = dedupe(copied).kept
    kinds = {"clean": pages, "noisy: typos in half": noisy, "few pages, near-copies": copied,
             "the same, deduplicated": [copied[i] for i in kept]}  # fmt: skip
    fig, ((ax,),) = plots.figure()
    found = {}
    for name, documents in kinds.items():
        ids = lab.encode(documents)
        model, losses = lab.trained(ids=ids)
        found[f"loss, {name}"] = lab.loss(model)
        ax.plot(smooth(losses), label=f"{name}: {found[f'loss, {name}']:.3f} unseen")
        lab.run.say(f"  {name:24} {len(ids):8,} different tokens   {found[f'loss, {name}']:.3f} nats, unseen")
    ax.set(title="Equal tokens of different text", xlabel="update", ylabel="training loss, nats")
    plots.legend(ax)
    lab.save(fig, "texts.png")
    return found


def sources(lab: Lab) -> dict:
    """Real text, made-up text, and half of each, at equal tokens: each judged on both."""
    manual = list(_text.at_most(_text.in_pieces(corpora.stream("python-manual", say=lab.run.say)),
                                lab.config.characters))  # fmt: skip
    real = [piece for piece in manual if not _text.is_held_out(piece)]
    judged = {"made-up": lab.valid,
              "real": lab.encode(piece for piece in manual if _text.is_held_out(piece))[: lab.config.judged]}
    town, python = lab.ids, lab.encode(real)
    size = min(len(town), len(python))
    kinds = {"real": python[:size], "made-up": town[:size],
             "half of each": torch.cat((python[: size // 2], town[: size // 2]))}  # fmt: skip
    found = {}
    for name, ids in kinds.items():
        model, _ = lab.trained(ids=ids)
        for on, unseen in judged.items():
            found[f"{name}, judged on {on}"] = lab.bits_per_byte(model, unseen)
        said = "   ".join(f"on {on} text {found[f'{name}, judged on {on}']:.3f}" for on in judged)
        lab.run.say(f"  {name:13} {size:8,} different tokens   bits per byte {said}")
    fig, ((ax,),) = plots.figure()
    plots.bars(ax, {on: {name: found[f"{name}, judged on {on}"] for name in kinds} for on in judged})
    ax.set(title="Equal tokens, from two sources", ylabel="bits per byte, unseen", xlabel="judged on")
    plots.legend(ax)
    lab.save(fig, "sources.png")
    return found
