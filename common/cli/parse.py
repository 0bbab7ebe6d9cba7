"""One dataclass in, one command line out: tyro reads it, and each mistake ends in one line."""
import contextlib
import dataclasses
import io
import typing

from common.cli.cards import unknown
from common.errors import UserError


def parse(kind: type, argv: list[str], *, prog: str, description: str, default=None, word: str = "option"):
    """`kind` filled from `argv`. UserError names the first thing that is wrong; `--help` prints and ends."""
    if not argv and default is None and all(has_default(field) for field in dataclasses.fields(kind)):
        return kind()  # without tyro, whose import takes as long as all else that `list` does
    import tyro

    for flag in (arg for arg in argv if arg.startswith("--")):
        check_flag(flag, [*flags(kind), "help"], word)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=argv, prog=prog, description=description, use_underscores=True,
                            **({} if default is None else {"default": default}))
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(f"{first_line(errors.getvalue())}; see `{prog} --help`") from None


def has_default(field: dataclasses.Field) -> bool:
    return (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)


def flags(kind: type) -> list[str]:
    """Names of the fields of a dataclass, and of dataclasses directly inside it."""
    names = []
    for field in dataclasses.fields(kind):
        inner = typing.get_args(field.type)[0] if typing.get_args(field.type) else field.type
        names += flags(inner) if dataclasses.is_dataclass(inner) else [field.name]
    return names


def check_flag(flag: str, names: list[str], word: str) -> None:
    name = flag[2:].split("=")[0].replace("-", "_")
    if name not in names and name.removeprefix("no_") not in names:
        raise unknown(word, flag, [f"--{known}" for known in names], word=f"--{name}")


def first_line(box: str) -> str:
    """What tyro says in its box, as one line: all between the title and the next rule."""
    said = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │╭╮╰╯")
        if text and not set(text) <= set("─-"):
            said.append(text)
        elif said:
            break
    return " ".join(said).removeprefix("Error parsing ") or "the command line cannot be read"
