"""A project's scripts as a user runs them, and a model folder for them: for the tests of all projects."""

import json
from pathlib import Path

import pytest
import torch

from common import hub, testing, tokenizer, tokenizer_json
from common.cli.script import script
from common.model import GPT

__all__ = ["model_folder", "refused", "run"]


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


def model_folder(folder, **sizes):
    """A folder as the chain has them: a tiny untrained GPT; bytes and the four special tokens.

    sizes: what `testing.tiny` takes, but for vocab_size, which is 260.
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
    hub.save(model, folder, tokenizer=tokenizer.load(folder), card={"made_by": "a test"})
    return folder
