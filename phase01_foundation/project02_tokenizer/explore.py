"""See and break a tokenizer: what a bigger vocabulary buys, what a learned embedding knows, and three ways
to spoil it. `--parts scripts` does that one only."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from common import plots
from common.cli import explore
from common.cli.script import script
from common.device import seed_all
from data import corpora

from .fast_bpe import BPE, cut, train
from .train import SPECIAL, texts

SCRIPTS = {
    "English": "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "French": "Portez ce vieux whisky au juge blond qui fume, près de l'église où l'été s'achève.",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία, και η αλεπού πηδάει πάνω από το σκυλί.",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю с хорошими людьми.",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश हुआ।",
    "Japanese": "いろはにほへと散りぬるを、我が世誰ぞ常ならむ、有為の奥山今日越えて。",
    "Emoji": "🙂🚀🐈‍⬛👩‍👩‍👧🏳️‍🌈🍎🥨🎻🧵🪴",
    "Code": "for i, row in enumerate(table):\n    total += row['price'] * row['count']\n",
}


class Lab(explore.Album):
    """What the experiments share: texts, a tokenizer learned on nine tenths of one, a place for pictures."""

    def __init__(self, config, run):
        super().__init__(config, run)
        stream = "".join(texts(config.corpus, config.characters, run.say))
        border = len(stream) * 9 // 10
        self.learned, self.unseen = stream[:border], stream[border:]
        self.manual = corpora.load("python-manual")[: len(self.unseen)]

    @cached_property
    def bpe(self):
        return train(self.learned, self.config.vocab_size, SPECIAL)


def shorter(bpe: BPE, size: int) -> BPE:
    """The tokenizer that training would have given for a smaller vocabulary: the same merges, stopped
    earlier."""
    return BPE({token: i for token, i in bpe.ranks.items() if i < size}, pattern=bpe.pattern)


def bytes_per_token(bpe: BPE, text: str, sizes: list[int]) -> list[float]:
    """Bytes a token of a text, for each size of the vocabulary."""
    return [len(text.encode()) / len(shorter(bpe, size).encode(text)) for size in sizes]


def compression(lab):
    """Bytes a token against vocabulary size, for text like the training text and for other text."""
    bpe, found = lab.bpe, {}
    sizes = sorted({256, *np.geomspace(300, len(bpe), 12).astype(int).tolist()})
    fig, ((ax,),) = plots.figure()
    for name, text in {"held-out text of the same kind": lab.unseen, "the Python manual": lab.manual}.items():
        rates = bytes_per_token(bpe, text, sizes)
        ax.plot(sizes, rates, marker="o", markersize=4, label=name)
        found[name] = rates[-1]
    ax.set(xscale="log", xlabel="ids in the vocabulary", ylabel="bytes per token",
           title="More ids, fewer tokens, and less for each further id")
    marks = [size for size in (256, 500, 1000, 2000, 4000, 8000) if size <= len(bpe)]
    ax.set_xticks(marks, labels=map(str, marks), minor=False)
    ax.set_xticks([], minor=True)
    plots.legend(ax)
    lab.save(fig, "compression.png")
    return found


def scripts(lab):
    """What a token holds in other scripts: what was not in the training text falls back to bytes."""
    rates = {name: len(text) / len(lab.bpe.encode(text)) for name, text in SCRIPTS.items()}
    fig, ((ax,),) = plots.figure(height=3.8)
    ax.barh(list(rates)[::-1], list(rates.values())[::-1], color=plots.COLOURS[0])
    ax.set(xlabel="characters per token", title="A tokenizer is at home where it was trained")
    lab.save(fig, "scripts.png")
    best, worst = max(rates, key=rates.get), min(rates, key=rates.get)
    lab.run.say(f"  characters per token, best and worst: {best} {rates[best]:.2f}, "
                f"{worst} {rates[worst]:.2f}")  # fmt: skip
    return rates


def learn_embedding(ids, n_ids, config):
    """(n_ids, width): trained to guess the next token from this one alone; words used alike end up alike."""
    seed_all(config.seed)
    ids = torch.tensor(ids)
    table = torch.nn.Embedding(n_ids, config.width)
    guess = torch.nn.Linear(config.width, n_ids, bias=False)
    optimizer = torch.optim.AdamW([*table.parameters(), *guess.parameters()], lr=0.01, weight_decay=0.0)
    for _ in range(config.steps):
        at = torch.randint(len(ids) - 1, (2048,))
        loss = F.cross_entropy(guess(table(ids[at])), ids[at + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return table.weight.detach()


def cosines(vectors):
    """(n, C) -> (n, n): 1 where two vectors point the same way, 0 where they are at right angles."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.T


def known_words(bpe, groups):
    """The words that are a single token, with the space before them, and their ids."""
    ids = {word: bpe.encode(" " + word) for word in groups}
    return {word: i[0] for word, i in ids.items() if len(i) == 1}


def draw_cosines(learned, names):
    """Cosines between words: one-hot codes, which know nothing, beside a learned embedding."""
    fig, ((left, right),) = plots.figure(1, 2, width=11, height=5.2)
    plots.heatmap(left, np.eye(len(names)), x=names, y=names, title="one-hot: every word alone", high=1)
    plots.heatmap(right, learned.clamp(min=0), x=names, y=names, title="learned: used alike, alike", high=1)
    for ax in (left, right):
        ax.tick_params(axis="x", rotation=90)
    return fig


def draw_map(vectors, names, groups):
    """(n, C): the words in the plane in which they differ most, a colour to each group."""
    centred = vectors - vectors.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    x, y = (centred @ axes[:2].T).T.tolist()
    fig, ((ax,),) = plots.figure()
    for name, px, py in zip(names, x, y, strict=True):
        colour = plots.COLOURS[groups[name] % len(plots.COLOURS)]
        ax.scatter([px], [py], s=24, color=colour)
        ax.annotate(name, (px, py), xytext=(5, 3), textcoords="offset points", size=11, color=colour)
    ax.set(title="The two directions in which these words differ most", xticks=[], yticks=[])
    ax.margins(0.15)
    return fig


def embeddings(lab):
    """What ids do not say and an embedding learns: which words are used alike, and a map of them."""
    groups = {word: k for k, group in enumerate(lab.config.words.split("|")) for word in group.split()}
    words = known_words(lab.bpe, groups)
    if len(words) < 3:
        lab.run.say(f"  {len(words)} of these words are a token: a larger vocabulary, or other words")
        return {}
    table = learn_embedding(lab.bpe.encode(lab.learned), len(lab.bpe), lab.config)
    vectors, names = table[list(words.values())], list(words)
    lab.save(draw_cosines(cosines(vectors), names), "cosines.png")
    lab.save(draw_map(vectors, names, groups), "map.png")
    return {}


def borders(lab):
    """Cut a text every 1,000 characters, wherever that falls, and count the ids that come out differently."""
    text, encode = lab.manual, lab.bpe.encode
    blind = [text[i : i + 1000] for i in range(0, len(text), 1000)]
    whole = encode(text)
    torn = [i for chunk in blind for i in encode(chunk)]
    safe = [i for chunk in cut(blind, SPECIAL, size=1000) for i in encode(chunk)]
    lab.run.say(f"  cut every 1,000 characters: {len(torn)} tokens, not {len(whole)}; "
                f"cut before a space: {len(safe)}")  # fmt: skip
    if safe != whole:
        raise AssertionError("the careful cut changed the ids")
    return {"torn": len(torn) - len(whole)}


def specials(lab):
    """Give the special tokens the ids 0 to 3, which are bytes: text with NUL in it ends the conversation."""
    collided = BPE(lab.bpe.ranks, {token: i for i, token in enumerate(SPECIAL)}, lab.bpe.pattern)
    said = collided.decode(lab.bpe.encode("a\x00b"))
    lab.run.say(f'  special tokens on the ids of bytes: the text "a\\x00b" decodes to {said!r}')
    return {}


EXPERIMENTS = {"compression": compression, "scripts": scripts, "embeddings": embeddings,
               "borders": borders, "specials": specials}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    corpus: str = "tinytown"
    """Corpus to learn tokens and embeddings from."""
    characters: int = 2_000_000
    """Characters of it to read."""
    vocab_size: int = 8000
    """Ids of the largest tokenizer on the curve."""
    steps: int = 400
    """Updates of the embedding; each sees 2,048 pairs of neighbours."""
    width: int = 64
    """Numbers in an embedding."""
    words: str = "baker miller tailor|dog cat goat|red blue green|bread soup cake"
    """Words to compare, in groups with | between."""
    seed: int = 0
    """Start of the random numbers."""
    publish: bool = False
    """Put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)


PRESETS = {"smoke": Config(characters=150_000, vocab_size=1000, steps=40, width=16), "cpu": Config()}


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus=config.corpus)


if __name__ == "__main__":
    script(main, PRESETS)
