"""The models that one project makes and later ones need: the base of 3, and what 4, 5 and 6 make of it.

    folder = chain.find("sft", config.model, say=run.say)    # the one named, models/sft, or a tiny one

A maker's `train smoke --out FOLDER` leaves its model in FOLDER/model. Where a link of the chain is missing,
that is run, in a process of its own, so that no project imports another's script.
"""
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from common.cli import cards, launch
from common.cli.paths import models, runs
from common.errors import UserError, demand

MAKERS = {"base": 3, "sft": 4, "lora": 5, "dpo": 6}


def find(link: str, named: str = "", *, say: Callable[[str], object] = print) -> Path:
    """The folder of a model: `named` (folder or name), else models/link, else a tiny stand-in made now.

    UserError where what is named is not there, or the stand-in cannot be made.
    """
    if named:
        from common import hub
        return hub.find(named)
    folder = models() / link
    return folder if whole(folder) else stand_in(link, say)


def whole(folder: Path) -> bool:
    """Whether a folder holds a model that was saved to its end: the card is written last."""
    return (folder / "config.json").is_file() and (folder / "card.json").is_file()


def stand_in(link: str, say: Callable[[str], object]) -> Path:
    """models/tiny/link, made by the smoke preset of the project that makes the link; seconds, and once."""
    folder, card = models() / "tiny" / link, cards.find(str(MAKERS[link]))
    why = f"no models/{link} yet (./thirty run {card.number} makes it)"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if whole(folder):
            say(f"{why}: a tiny stand-in is used, {folder}")
            return folder
        say(f"{why}: a tiny stand-in is trained first, in less than a minute")
        out = runs() / "tiny" / f"{link}-{os.getpid()}"
        log = out.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as output:
            code = launch.start(f"{card.module}.train", ["smoke", "--out", str(out)], output=output)
        demand(code == 0, f"the stand-in for models/{link} could not be made; what it said is in {log}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (out / "model").rename(folder)
        except OSError as error:
            raise UserError(f"the stand-in for models/{link} could not be put in place: {error}") from None
    return folder
