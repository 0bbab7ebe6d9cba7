"""What was run and checked on this machine: `my/progress.json`.

    {"project01_minimal_gpt": {"ran": {"train": 71.2, "train smoke": 4.1}, "checked": "2026-01-31"}}

`ran` holds seconds by script and preset as typed; `checked` is the day on which the learner's files passed.
"""
import json
from datetime import date

from common.cli.cards import Card
from common.cli.paths import my
from common.errors import UserError
from common.files import write_json


def read() -> dict[str, dict]:
    """The whole table; empty where nothing was run."""
    path = my() / "progress.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if isinstance(table, dict):
            return table
    except ValueError:
        pass
    raise UserError(f"{path} cannot be read as JSON: mend it, or delete it (only times and marks are lost)")


def ran(card: Card, what: str, seconds: float) -> None:
    """Note how long `what` ("train", "train smoke") took."""
    entry = read().get(card.name, {})
    record(card, ran={**entry.get("ran", {}), what: round(seconds, 1)})


def checked(card: Card) -> None:
    """Note that the learner's files passed the project's tests today."""
    record(card, checked=date.today().isoformat())


def record(card: Card, **facts) -> None:
    """Set facts about one project and leave the rest as it is."""
    table = read()
    write_json(my() / "progress.json", {**table, card.name: {**table.get(card.name, {}), **facts}})
