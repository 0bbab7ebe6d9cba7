"""Learn a BPE tokenizer from text and save it as the course's `tokenizer`.

Every project from here on uses it: 10,000 ids, of which byte b is id b, merge i is 256 + i, and the last
four are special. The run ends with what it learned, what it saves, and whether the number is right.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from common import tokenizer
from common.cli.paths import models
from common.cli.script import script
from common.errors import UserError
from common.files import write_json
from data import corpora, readers

from .fast_bpe import BPE, cut, train

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


@dataclass(frozen=True)
class Config:
    corpus: str = "tinytown,python-manual"
    """Corpora to learn from, with commas between; or one text file, or a folder of files."""
    vocab_size: int = 10_000
    """Ids in all: 256 bytes, the merges, and four special tokens."""
    characters: int = 0
    """Read only so many characters of each corpus; 0 reads all."""
    min_frequency: int = 2
    """A pair that occurs less often is not merged."""
    workers: int = 0
    """Processes that count pieces besides this one; the result does not depend on it."""
    seed: int = 0
    """Which tenth of the text is kept away to judge by."""
    save: bool = True
    """Save the tokenizer into the models folder, for the projects that follow."""


PRESETS = {
    "smoke": Config(corpus="python-manual", vocab_size=600, characters=100_000, save=False),
    "cpu": Config(),
    "gpu": Config(),
    "paper": Config(corpus="wikitext103", workers=2),
}


def texts(corpus: str, characters: int, say) -> Iterator[str]:
    """The text of a corpus, file or folder, in pieces."""
    place = Path(corpus)
    if place.exists():
        pieces = (document.text for document in readers.read_folder(place, say=say))
    else:
        pieces = corpora.stream(corpus, say=say)
    read = 0
    for piece in pieces:
        if characters and read >= characters:
            break
        yield piece[: characters - read] if characters else piece
        read += len(piece)


def held_out(chunks, seed: int = 0, every: int = 10) -> tuple[list[str], list[str]]:
    """(to learn from, to judge by): every tenth chunk is kept away from training; of a short text, none."""
    chunks, first = list(chunks), every - 1 - seed % every
    return [c for i, c in enumerate(chunks) if i % every != first], chunks[first::every] or chunks


def measure(bpe: BPE, chunks: list[str]) -> dict[str, float]:
    """Bytes a token and the share of ids in use. AssertionError where the text does not come back."""
    text = "".join(chunks)
    ids = bpe.encode(text)
    if bpe.decode(ids, errors="strict") != text:
        raise AssertionError("the tokenizer lost text: decode(encode(text)) differs from text")
    return {"bytes_per_token": len(text.encode()) / len(ids), "ids_used": len(set(ids)) / len(bpe)}


def show_merges(bpe: BPE, say) -> None:
    """The first merges and the longest tokens: what stands together most, and what is worth an id of its
    own."""
    tokens = [bpe.vocab[i].decode(errors="replace") for i in range(256, len(bpe) - len(SPECIAL))]
    say("first merges:   " + "  ".join(map(repr, tokens[:14])))
    say("last merges:    " + "  ".join(map(repr, tokens[-8:])))
    say("longest tokens: " + "  ".join(map(repr, sorted(tokens, key=len)[: -9 : -1])))


def main(config, run):
    names = [name.strip() for name in config.corpus.split(",") if name.strip()]
    if not names:
        raise UserError("--corpus names no corpus; for example --corpus shakespeare")
    stream = (piece for name in names for piece in texts(name, config.characters, run.say))
    learn, judge = held_out(cut(stream, SPECIAL, size=1000), config.seed)
    bpe = train(learn, config.vocab_size, SPECIAL, min_frequency=config.min_frequency, workers=config.workers)
    if len(bpe) < config.vocab_size:
        run.say(f"the text has pairs for {len(bpe)} ids only, not for {config.vocab_size}: add text")
    show_merges(bpe, run.say)
    metrics = measure(bpe, judge)
    run.say(f"{len(bpe)} ids; {metrics['bytes_per_token']:.2f} bytes a token on text it has not seen")
    save(bpe, run.folder, config, names)
    if config.save:
        save(bpe, models() / "tokenizer", config, names)
        run.say(f"saved: {models() / 'tokenizer'}, loaded with common.tokenizer.load")
    run.finish(metrics, corpus=",".join(names))


def save(bpe: BPE, folder: Path, config: Config, names: list[str]) -> None:
    """tokenizer.json, the chat template beside it, and a card that says what it was made from."""
    bpe.save(folder)
    saved = tokenizer.load(folder)  # as all later projects see it
    saved.save(folder)
    made = {"made_by": "project02_tokenizer", "corpus": names, "config": asdict(config)}
    write_json(folder / "card.json", {**made, "tokenizer_sha256": saved.sha256})


if __name__ == "__main__":
    script(main, PRESETS)
