"""What the tests of all projects stand on: a model folder that is like the chain's."""

import json
import re

import pytest

from common import hub, tokenizer, trial
from common.errors import UserError
from common.generate import Sampling, generate
from common.trial import model_folder

SCRIPT = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    steps: int = 5

PRESETS = {"smoke": Config(), "cpu": Config()}
EXPERIMENTS = {"one": None, "two": None}

if __name__ == "__main__":
    pass
"""


def test_the_model_folder_is_like_the_chains(tmp_path):
    model_folder(tmp_path / "m", n_layer=1)
    model, words = hub.load(tmp_path / "m").eval(), tokenizer.load(tmp_path / "m")
    assert words.vocab_size == model.config.vocab_size == 260 and model.config.n_layer == 1
    assert words.encode("héllo\0") == list("héllo\0".encode())
    assert words.decode(words.encode("héllo")) == "héllo"
    assert words.special == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258, "<|pad|>": 259}
    ids = words.chat_ids([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert words.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert len(generate(model, [ids], Sampling(max_tokens=3, ignore_eos=True), tokenizer=words)[0].ids) == 3


def test_equal_sizes_give_equal_weights(tmp_path):
    one, two = (hub.load(model_folder(tmp_path / name)) for name in ("one", "two"))
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_loud_weights_say_something_else(tmp_path):
    quiet, loud = (hub.load(model_folder(tmp_path / str(n), loud=n)) for n in (1, 8))
    for name, p in quiet.named_parameters():
        assert loud.get_parameter(name).equal(8 * p if p.dim() > 1 else p), name


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """write(text) -> the README of a project with two scripts; the first is generate."""
    folder = tmp_path / "phase77_trial/project77_trial"
    folder.mkdir(parents=True)
    card = {"number": 77, "week": 1, "tier": "warm-up", "builds_on": [], "extras": [], "minutes": {}}
    card |= dict.fromkeys(("title", "insight", "claim", "seam"), "")
    (folder / "project.json").write_text(json.dumps(card))
    for name in ("generate", "explore"):
        (folder / f"{name}.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        (folder / "README.md").write_text(text, encoding="utf-8")
        return folder / "README.md"

    return write


def test_commands_of_a_lesson_are_read_as_the_command_line_reads_them(lesson):
    text = "```bash\n./thirty run 77 smoke --steps 3  # quick\n./thirty explore 77\n```\n"
    text += "`./thirty run 77 generate`, `--parts one two`, ./thirty run 7 x"
    assert [config.steps for config in trial.commands(lesson(text))] == [3, 5, 5]
    for wrong, said in (("run 77 --step 3", "no field '--step'"), ("run 77 --steps x", "x"),
                        ("explore 77 --corpus y", "no field '--corpus'")):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(said)):
            trial.commands(lesson(f"./thirty {wrong}"))
    with pytest.raises(AssertionError, match="generate has no preset large"):
        trial.commands(lesson("./thirty run 77 large"))
    with pytest.raises(UserError, match="no part is called three"):
        trial.commands(lesson("`--parts one three`"))


def test_snippets_of_a_lesson_are_run_with_the_names_given(lesson):
    path = lesson("```python\ny = x + 1\n```\nand\n```python\nz = 2 * x\n```\n")
    one, two = trial.snippets(path, x=3)
    assert one["y"] == 4 and two["z"] == 6 and "y" not in two
    with pytest.raises(NameError):
        trial.snippets(path)


def add(a, b):
    return a + b


def test_unplugged_asks_that_a_function_is_used():
    """Under any name; afterwards all is as before; not to use it is a failure."""
    other = add
    with trial.unplugged(add):
        other(1, 2)
    assert add(1, 2) == 3
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), trial.unplugged(add):
        max(1, 2)


def test_metrics_are_those_of_the_result(tmp_path):
    (tmp_path / "result.json").write_text('{"metrics": {"loss": 1.5}}')
    assert trial.metrics(tmp_path) == {"loss": 1.5}
