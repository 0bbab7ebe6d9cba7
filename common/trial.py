"""A project's scripts as a user runs them, its lesson, and a model folder: for the tests of all projects."""

import importlib
import inspect
import json
import re
import shlex
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from common import hub, testing, tokenizer, tokenizer_json
from common.cli import cards, explore
from common.cli.script import read, script
from common.model import GPT

__all__ = ["commands", "metrics", "model_folder", "refused", "run", "snippets", "unplugged"]


def run(module, *arguments):
    """Run a script in this process with these arguments, as its command line would."""
    script(module.main, module.PRESETS, [str(argument) for argument in arguments])


def refused(capsys, module, *arguments):
    """The one line with which a script refuses: exit code 2, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(module, *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]


@contextmanager
def unplugged(function):
    """What runs within must use this function: it raises, whatever name others have imported it under."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError("unplugged")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError, match="unplugged"):
        patch.setattr(inspect.unwrap(function), "__code__", broken.__code__)
        yield


def metrics(folder):
    """The figures that a run left in its folder."""
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))["metrics"]


def commands(lesson):
    """The settings that each `./thirty run N …` and `explore N …` of a README asks for, in its order.

    Every script, preset, field and value is read as the command line reads it; UserError names what is not
    there. Parts that stand alone (`--parts one two`) are known to explore.py.
    """
    folder, text, found = Path(lesson).parent, Path(lesson).read_text(encoding="utf-8"), []
    card = cards.read(folder / "project.json")
    scripts = {name: importlib.import_module(f"{card.module}.{name}") for name in card.scripts}
    for verb, rest in re.findall(rf"\./thirty (run|explore) {card.number}\b([^\n#`]*)", text):
        words = [word for word in shlex.split(rest) if word not in ("--mine", "--help")]
        name = "explore" if verb == "explore" else card.scripts[0]
        name = words.pop(0) if words and words[0] in scripts else name
        presets = scripts[name].PRESETS
        preset = words.pop(0) if words and not words[0].startswith("-") else "cpu"
        assert preset in presets, f"{name} has no preset {preset}"
        found.append(read(presets, preset, words, folder / f"{name}.py")[0])
    for parts in re.findall(r"`--parts ([\w ]+)`", text):
        explore.known(parts.split(), scripts["explore"].EXPERIMENTS)
    return found


def snippets(lesson, **names):
    """Run the Python of a README as it stands, given these names; the names that each piece leaves."""
    pieces = re.findall(r"```python\n(.*?)```", Path(lesson).read_text(encoding="utf-8"), flags=re.S)
    found = [dict(names) for _ in pieces]
    for code, space in zip(pieces, found, strict=True):
        exec(compile(code, "<the lesson>", "exec"), space)
    return found


def model_folder(folder, *, loud=1.0, **sizes):
    """A folder as the chain has them: a tiny untrained GPT; bytes and the four special tokens.

    loud: what its matrices are multiplied by: with 8 a wrong key changes what it says. sizes: what
    `testing.tiny` takes, but for vocab_size, which is 260.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {letter: byte for byte, letter in tokenizer_json.letters().items()}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)  # transformers asks
    added = [{"id": 256 + i, "content": name, "special": True, **plain}
             for i, name in enumerate(tokenizer_json.SPECIAL)]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    file = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": split,
            "post_processor": None, "decoder": split,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(file), "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(testing.tiny(vocab_size=260, **sizes))
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() > 1):
            matrix.mul_(loud)
    hub.save(model, folder, tokenizer=tokenizer.load(folder), card={"made_by": "a test"})
    return folder
