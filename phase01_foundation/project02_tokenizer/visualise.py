"""Show how a tokenizer cuts a text: colours in the terminal, and a page that tells the id under the pointer.

./thirty run 2 visualise --text "the unbelievable 🙂"
"""

import html
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.cli.paths import models
from common.cli.script import script
from common.errors import UserError
from common.files import write_text

from .fast_bpe import BPE

COLOURS = ("#cfe8ff", "#ffe3c9", "#d5f2df", "#f7d9ec", "#fbf1c4")  # pale enough to read black letters on
UNKNOWN_COLOUR = "#d55e00"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Tokens</title><style>
body{{font:18px/1.9 ui-monospace,monospace;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}}
span{{padding:.15em .1em;border-radius:.25em;white-space:pre-wrap}} small{{color:#777}}
</style><p>{spans}</p>
<p><small>{count} tokens, {bytes} bytes: {rate:.2f} bytes a token. Point at one for its id.</small></p></html>
"""


@dataclass(frozen=True)
class Config:
    text: str = "The miller's dog isn't unbelievable: 12,345 crumbs! naïve 東京 🙂"
    """What to cut."""
    tokenizer: str = ""
    """Folder with a tokenizer.json; without it, the one that ./thirty run 2 saved."""
    ids: str = ""
    """Ids instead of a text, with commas between: shows what they spell, and marks those that do not
    exist."""


PRESETS = {"smoke": Config(), "cpu": Config()}


def spelled(bpe: BPE, i: int) -> str:
    """What id i stands for: its text, the bytes of half a character as <E6 9D>, or a mark where there is no
    such id."""
    if i not in bpe.vocab:
        return f"<no id {i}>"
    try:
        return bpe.vocab[i].decode()
    except UnicodeDecodeError:
        return f"<{bpe.vocab[i].hex(' ').upper()}>"


def colour(bpe: BPE, place: int, i: int) -> str:
    return COLOURS[place % len(COLOURS)] if i in bpe.vocab else UNKNOWN_COLOUR


def in_terminal(bpe: BPE, ids: list[int]) -> Text:
    """The tokens on coloured ground, line breaks shown as ⏎."""
    shown = Text()
    for place, i in enumerate(ids):
        shown.append(spelled(bpe, i).replace("\n", "⏎"), style=f"black on {colour(bpe, place, i)}")
    return shown


def as_page(bpe: BPE, ids: list[int]) -> str:
    """The same as an HTML page. The text is escaped: a token may spell a tag."""
    mark = '<span style="background:{}" title="id {}">{}</span>'.format
    spans = "".join(mark(colour(bpe, k, i), i, html.escape(spelled(bpe, i))) for k, i in enumerate(ids))
    n_bytes = sum(len(bpe.vocab.get(i, b"")) for i in ids)
    return PAGE.format(spans=spans, count=len(ids), bytes=n_bytes, rate=n_bytes / max(1, len(ids)))


def read_ids(given: str) -> list[int]:
    """"17, 300" -> [17, 300]"""
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise UserError(f"--ids takes whole numbers with commas between, not {given!r}") from None


def main(config, run):
    bpe = BPE.load(Path(config.tokenizer) if config.tokenizer else models() / "tokenizer")
    ids = read_ids(config.ids) if config.ids else bpe.encode(config.text, "all")
    Console().print(in_terminal(bpe, ids))
    run.say(" ".join(map(str, ids)))
    write_text(run.folder / "tokens.html", as_page(bpe, ids))
    run.say(f"as a page: {run.folder / 'tokens.html'}")
    run.finish({"tokens": len(ids)})


if __name__ == "__main__":
    script(main, PRESETS)
