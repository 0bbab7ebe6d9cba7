"""The thirty projects, read from their cards (`project.json`, DESIGN 12.10). Imports no torch."""
import json
import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from common.cli.paths import ROOT
from common.errors import UserError

TIERS = ("warm-up", "intermediate", "advanced", "expert")


@dataclass(frozen=True)
class Card:
    """One project. `minutes` are the card's estimates for {smoke, cpu}; `builds_on` holds numbers."""
    number: int
    title: str
    week: int
    tier: str
    insight: str
    builds_on: tuple[int, ...]
    extras: tuple[str, ...]
    claim: str
    minutes: dict[str, float]
    seam: str
    folder: Path

    @property
    def name(self) -> str:
        """`project08_kv_cache`"""
        return self.folder.name

    @property
    def technique(self) -> str:
        """`kv_cache`"""
        return self.name.split("_", 1)[1]

    @property
    def phase(self) -> str:
        """`phase03_core_inference`"""
        return self.folder.parent.name

    @property
    def module(self) -> str:
        """`phase03_core_inference.project08_kv_cache`"""
        return f"{self.phase}.{self.name}"

    @property
    def scripts(self) -> list[str]:
        """What `run` can start: files that end in `script(main, PRESETS)`; the default comes first."""
        return scripts(self.folder)

    @property
    def built(self) -> bool:
        return (self.folder / "README.md").is_file() and bool(self.scripts)


def scripts(folder: Path) -> list[str]:
    """The files of a folder that can be started: train, generate or another first, explore and bench last."""
    found = [path.stem for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    place = {"train": -2, "generate": -1, "explore": 1, "bench": 2}
    return sorted(found, key=lambda name: (place.get(name, 0), name))


def read(path: Path) -> Card:
    """The card in one `project.json`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values |= {"builds_on": tuple(values["builds_on"]), "extras": tuple(values["extras"])}
        return Card(**values, folder=path.parent)
    except (ValueError, TypeError, KeyError) as error:
        names = ", ".join(f.name for f in fields(Card) if f.name != "folder")
        raise UserError(f"{path}: not a project card ({error}); it needs {names}") from None


def cards(root: Path = ROOT) -> list[Card]:
    """Every project's card, by number."""
    return sorted((read(p) for p in root.glob("phase*/project*/project.json")), key=lambda c: c.number)


def find(text: str, root: Path = ROOT) -> Card:
    """The project that `8`, `08`, `kv_cache`, `project08_kv_cache`, `project8` or its folder's path names."""
    word, everything = last_part(text), cards(root)
    number = re.fullmatch(r"(?:project)?0*(\d{1,4})", word)
    for card in everything:
        if word in (card.name, card.technique) or (number and int(number[1]) == card.number):
            return card
    if number or not word:
        raise UserError(f"no project {text}: they are {everything[0].number} to {everything[-1].number}; "
                        "see `thirty list`")
    names = [name for card in everything for name in (card.technique, card.name)]
    raise unknown("project", text, names, word=word, also="; see `thirty list`")


def phase(text: str, root: Path = ROOT) -> list[Card]:
    """The projects of `phase3`, `phase03`, `phase03_core_inference` or that folder's path."""
    word, everything = last_part(text), cards(root)
    number = re.fullmatch(r"phase0*(\d{1,4})", word)
    names = list(dict.fromkeys(card.phase for card in everything))
    for name in names:
        if word in (name, name.split("_", 1)[1]) or (number and int(number[1]) == int(name[5:7])):
            return [card for card in everything if card.phase == name]
    raise unknown("phase", text, names, word=word)


def last_part(text: str) -> str:
    """`phase01_foundation/project01_minimal_gpt/` -> `project01_minimal_gpt`; dashes count as underscores."""
    return text.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower().replace("-", "_")


def unknown(kind: str, text: str, names, *, word: str | None = None, also: str = "") -> UserError:
    """The one line for a name that does not exist, with the nearest one that does."""
    close = get_close_matches(word or text, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else ""
    if not hint and len(names) < 20:
        hint = f"there are {', '.join(names)}"
    return UserError(f"no {kind} {text!r}" + (f": {hint}" if hint else "") + also)
