"""The restore functions of all projects: what `hub.load` asks for where a folder was made by surgery.

    model = hub.load(folder, restore=restores.table())

A project that marks folders has one technique file with `def restore(model, **args)`. It is imported when a
folder names the project, and not before; the names are those of the projects that lie here, never a path that
was read from a folder.
"""
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module

from common.cli.cards import cards


class Table(Mapping):
    """{project's name: its restore function}, each imported when it is asked for."""

    def __init__(self):
        self.modules = {card.name: f"{card.module}.{path.stem}" for card in cards()
                        for path in card.folder.glob("*.py")
                        if re.search(r"^def restore\(", path.read_text(encoding="utf-8"), flags=re.M)}

    def __getitem__(self, name: str) -> Callable:
        return import_module(self.modules[name]).restore

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


def table() -> Table:
    return Table()
