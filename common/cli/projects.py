"""Verbs list, run, data, and what `thirty` alone says."""
import time
from dataclasses import dataclass
from typing import Literal

from common.cli import progress
from common.cli.cards import Card, cards, find
from common.cli.launch import start
from common.errors import UserError


@dataclass(frozen=True)
class List:
    tier: Literal["warm-up", "intermediate", "advanced", "expert"] | None = None
    """Only the projects of this tier."""

    def __call__(self) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        done = progress.read()
        table = Table("N", "project", "tier", "done", "time", "claim", box=SIMPLE_HEAD, pad_edge=False,
                      padding=(0, 1, 0, 0))
        for card in cards():
            if self.tier in (None, card.tier):
                entry = done.get(card.name, {})
                shown = (mark(card, entry), took(card, entry), card.claim)
                table.add_row(str(card.number), card.technique, card.tier, *shown)
        Console().print(table)
        print("done: ran here, or written by you; a dot is not built yet\n"
              "time: the last run on this machine; with ~ an estimate for a laptop")


def mark(card: Card, entry: dict) -> str:
    """written | ran | - | a dot for what is not built"""
    if not card.built:
        return "."
    return "written" if "checked" in entry else "ran" if times(card, entry) else "-"


def times(card: Card, entry: dict) -> list[float]:
    """Seconds of the default script's runs, smoke tests left out."""
    return [seconds for what, seconds in entry.get("ran", {}).items()
            if what.split()[0] in card.scripts[:1] and not what.endswith(" smoke")]


def took(card: Card, entry: dict) -> str:
    """The last run of the default script that was not a smoke test; else the card's estimate."""
    if measured := times(card, entry):
        return f"{measured[-1]:.0f}s" if measured[-1] < 100 else f"{measured[-1] / 60:.0f}m"
    return f"~{card.minutes['cpu']:g}m"


def run(argv: list[str]) -> int:
    """`run N [script] [preset] [--field value ...]`: what follows the script goes to it as typed."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: thirty run N [script] [preset] [--field value ...] [--mine]\n\n"
              "`thirty run N --help` shows a project's presets and fields; `thirty list` the projects.")
        return 0 if argv else 2
    card, rest = find(argv[0]), argv[1:]
    script = rest.pop(0) if rest and rest[0] in card.scripts else main_script(card)
    need(card)
    began = time.perf_counter()
    code = start(f"{card.module}.{script}", rest)
    if code == 0 and not {"-h", "--help"} & set(rest):
        preset = [rest[0]] if rest and not rest[0].startswith("-") else []
        progress.ran(card, " ".join([script, *preset]), time.perf_counter() - began)
    return code


def main_script(card: Card) -> str:
    """What `run N` starts; UserError where there is nothing to start."""
    if not card.scripts:
        raise UserError(f"project {card.number}, {card.title}, is not built yet; see `thirty list`")
    return card.scripts[0]


def need(card: Card) -> None:
    """The core, without which nothing runs, and the extras on the card, installed or spoken of."""
    from common.cli.extras import missing, need
    if lacking := missing("core"):
        raise ModuleNotFoundError(name=lacking[0])
    need(card.extras, f"project {card.number}")


def data(argv: list[str]) -> int:
    """`data NAME`: a process of its own, because `common` imports nothing from `data`."""
    return start("data.corpora", argv)


def what_next() -> None:
    """One suggestion: the first thing in the course's order that is not done."""
    done = progress.read()
    print("thirty: thirty projects, from a character GPT to a chat server in a container.\n")
    for card in (card for card in cards() if card.built):
        entry = done.get(card.name, {})
        if not times(card, entry):
            print(f"Next: project {card.number}, {card.title}. {card.insight}\n\n"
                  f"  ./thirty run {card.number}\n")
            break
        if "checked" not in entry:
            print(f"Next: write project {card.number}, {card.title}, yourself.\n\n"
                  f"  ./thirty start {card.number}    a stub to fill in\n"
                  f"  ./thirty check {card.number}    judges it\n  ./thirty hint {card.number}     helps\n")
            break
    else:
        print("All that is built is done.\n")
    print("./thirty list shows all thirty, ./thirty --help every verb, ./thirty doctor this machine.")
