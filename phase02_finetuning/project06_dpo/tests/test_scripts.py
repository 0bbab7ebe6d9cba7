"""The project as a whole: its scripts, its technique in use, resuming, files of rows, the page to rate on."""

import dataclasses
import json
import re
import threading
import urllib.error
import urllib.request
from itertools import islice
from pathlib import Path

import pytest
import torch

from common import hub
from common.cli.bench import bench as run_bench
from common.errors import UserError
from common.trial import commands, refused, run
from data.tinytown import TinyTown
from phase02_finetuning.project06_dpo import (
    _data,
    _judge,
    _tuning,
    bench,
    dpo,
    explore,
    grpo,
    ppo,
    rate,
    train,
)

FOLDER = Path(train.__file__).parent
SMALL = ("smoke", "--held_out", 6, "--judged", 4, "--pairs", 12, "--max_tokens", 6)


def weights(folder):
    return torch.cat([p.detach().flatten() for p in hub.load(folder).parameters()])


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())["metrics"]


# ---- scripts ----


SLOW = {"ipo", "simpo", "methods", "frontier", "beta", "flipped"}  # alike to one that runs by default


def some(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.mark.parametrize("method", some(train.WRITTEN))
def test_smoke_train(home, tiny_model, method):
    """Every method leaves a model that can be loaded, not the one it began with, and says its worth."""
    run(train, *SMALL, "--method", method, "--model", tiny_model, "--out", home / "out")
    assert not torch.equal(weights(home / "out" / "model"), weights(tiny_model))
    metrics = result(home / "out")
    assert {"win_rate", "skill", "skill_before", "kl"} <= set(metrics)
    assert 0 <= metrics["win_low"] <= metrics["win_rate"] <= metrics["win_high"] <= 1
    assert (home / "out" / "curves.png").stat().st_size > 5000
    assert not (home / "models").exists(), "a smoke test must not replace the chain's model"


@pytest.mark.parametrize("part", some(explore.EXPERIMENTS))
def test_smoke_explore(home, tiny_model, part):
    small = ("--pairs", 8, "--held_out", 3, "--max_tokens", 4, "--warm", 1, "--phases", 1)
    run(explore, "smoke", "--model", tiny_model, "--parts", part, *small, "--out", home / "out")
    assert result(home / "out")


def test_smoke_rate(home, tiny_model):
    """A program clicks through the page's own routes; each choice is in the file."""
    run(train, *SMALL, "--model", tiny_model, "--out", home / "tuned")
    run(rate, "smoke", "--model", home / "tuned" / "model", "--against", tiny_model, "--out", home / "out")
    lines = [json.loads(line) for line in (home / "out" / "choices.jsonl").read_text().splitlines()]
    assert result(home / "out")["rated"] == len(lines) > 0
    assert all(line["choice"] in rate.CHOICES and line["tuned"] != line["other"] for line in lines)


def test_smoke_bench(home, tiny_model, monkeypatch, capsys):
    """All claims, in small, with trl beside."""
    pytest.importorskip("trl")
    made = {"dpo": home / "tuned" / "model", "sft": tiny_model}
    run(train, *SMALL, "--model", tiny_model, "--out", home / "tuned")
    monkeypatch.setattr(bench.chain, "find", lambda link, *_, **__: made[link])
    run_bench(bench.main, bench.profiled, ["smoke"])
    said = capsys.readouterr().out
    for claim in (
        "step",
        "step-known",
        "step-small",
        "memory",
        "accuracy-trl",
        "win-rate",
        "skill",
        "accuracy",
    ):
        assert re.search(rf"^{claim}: ", said, flags=re.M), claim


@pytest.mark.parametrize(
    "method, technique",
    [
        ("dpo", (dpo, "sequence_logprobs")),
        ("grpo", (grpo.GRPOLoss, "forward")),
        ("ppo", (ppo.PPOLoss, "forward")),
    ],
)
def test_is_on_in_train(home, tiny_model, monkeypatch, method, technique):
    """Without the technique the script does not get through."""

    class Used(Exception):
        pass

    def used(*_, **__):
        raise Used

    where, name = technique
    monkeypatch.setattr(where, name, used)
    monkeypatch.setattr(_tuning, name, used, raising=False)
    with pytest.raises(Used):
        run(train, *SMALL, "--method", method, "--model", tiny_model, "--out", home / "out")


# ---- resuming ----


@pytest.mark.parametrize("method", ["dpo", "ppo", "grpo"])
def test_stopped_and_resumed(home, tiny_model, monkeypatch, method):
    """A run stopped in the middle of a phase ends at the weights of the unbroken one, bit for bit."""
    arguments = (*SMALL, "--method", method, "--model", tiny_model, "--updates", 2)
    run(train, *arguments, "--out", home / "whole")

    class Killed(Exception):
        pass

    fit = _tuning.train

    def dies(objective, batch_at, config, **more):
        """A checkpoint after every update, so one inside a phase too; the end comes before the fourth."""

        def until_three(i):
            if i == 3 and more["folder"].name == "broken":
                raise Killed
            return batch_at(i)

        return fit(objective, until_three, dataclasses.replace(config, save_every=1), **more)

    monkeypatch.setattr(_tuning, "train", dies)
    with pytest.raises(Killed):
        run(train, *arguments, "--out", home / "broken")
    monkeypatch.setattr(_tuning, "train", fit)
    run(train, *arguments, "--out", home / "broken", "--resume")
    assert torch.equal(weights(home / "broken" / "model"), weights(home / "whole" / "model"))


# ---- rows ----


class TestRows:
    def config(self, source, **more):
        return dataclasses.replace(train.PRESETS["smoke"], preferences=str(source), held_out=2, **more)

    def test_three_shapes(self, home, tiny_model):
        """Alpaca's, the course's, and plain prompts; the last rows are held out; turns are kept."""
        from common import tokenizer

        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                 {"role": "user", "content": "Where?"}]  # fmt: skip
        rows = [
            {"instruction": "Say", "input": "a", "chosen": "b", "rejected": "c"},
            {"messages": turns, "chosen": "Here.", "rejected": "There."},
            {"prompt": "Go?", "chosen": "Yes", "rejected": "No"},
            {"prompt": "x", "chosen": "y", "rejected": "z"},
        ]
        (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (home / "rows.json").write_text(json.dumps(rows))
        for name in ("rows.jsonl", "rows.json"):
            found = _data.read(self.config(home / name), tokenizer.load(tiny_model), 256, lambda line: None)
            assert len(found.pairs) == len(found.held) == 2
            text = bytes(i for i in found.pairs[0].prompt if i < 256).decode()
            assert text == "user\nSay\n\na\nassistant\n"
            assert found.pairs[1].prompt.count(257) == 4  # three turns, and the one to come
            assert found.pairs[0].chosen == [ord("b"), 258]

    def test_too_long_loses_the_beginning_of_its_prompt(self, tiny_model):
        from common import tokenizer

        row = {"messages": [{"role": "user", "content": "a" * 90}], "chosen": "b" * 20, "rejected": "c"}
        pair = _data.pair_of(row, tokenizer.load(tiny_model), 64)
        assert len(pair.prompt) + len(pair.chosen) == 64 and pair.prompt[-1] == ord("\n")

    @pytest.mark.parametrize(
        "text, said",
        [
            ('[{"prompt": "a", "chosen": "b"}]', "no rejected"),
            ("[1]", "row 1"),
            ("[]", "too few"),
            ("{", "not JSON"),
            ('[{"prompt": "a", "chosen": 1, "rejected": "b"}]', "must be texts"),
        ],
    )
    def test_bad_rows_are_named(self, home, tiny_model, capsys, text, said):
        (home / "bad.json").write_text(text)
        line = refused(capsys, train, "smoke", "--preferences", home / "bad.json", "--model", tiny_model)
        assert said in line and "bad.json" in line

    def test_a_file_without_a_judge(self, home, tiny_model, capsys):
        """It is trained on all the same; what is refused is to reward answers that nobody can judge."""
        rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(12)]
        (home / "rows.json").write_text(json.dumps(rows))
        more = ("--preferences", home / "rows.json", "--model", tiny_model, "--held_out", 4)
        run(train, "smoke", *more, "--out", home / "out")
        assert "win_rate" not in result(home / "out")
        assert "--reward model" in refused(
            capsys, train, "smoke", *more, "--method", "grpo", "--out", home / "x"
        )
        run(train, "smoke", *more, "--method", "grpo", "--reward", "model", "--out", home / "y")

    @pytest.mark.needs_data
    def test_preferences_of_the_course(self, home, tiny_model):
        run(train, *SMALL, "--preferences", "preferences", "--model", tiny_model, "--out", home / "out")
        assert result(home / "out")["accuracy"] >= 0

    def test_every_row_once_an_epoch(self):
        seen = [j for i in range(5) for j in _data.order(10, 4, i, seed=0)]
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


@pytest.mark.parametrize("field, value", [("group", 1), ("pairs", 0), ("updates", 3), ("beta", 0)])
def test_impossible_settings(home, tiny_model, capsys, field, value):
    assert field in refused(capsys, train, "smoke", "--model", tiny_model, f"--{field}", value)


# ---- judging ----


def test_win_rate_and_outcome():
    """Half a win for a tie; the interval holds the mean and narrows with more questions."""
    row = next(TinyTown().preferences("held-out"))
    assert [
        _judge.outcome(row, *pair)
        for pair in ((row["chosen"], row["rejected"]), (row["rejected"], row["chosen"]), ("x", "y"))
    ] == [1.0, 0.0, 0.5]
    few, many = (_judge.win_rate([1.0, 0.0, 0.5, 1.0] * n) for n in (5, 100))
    assert few[0] == many[0] == 0.625
    assert few[1][0] < many[1][0] < 0.625 < many[1][1] < few[1][1]


class TestRate:
    @pytest.fixture
    def ballot(self, tmp_path):
        rows = list(islice(TinyTown().preferences("held-out"), 6))
        items = [(row, row["chosen"], row["rejected"]) for row in rows]
        return rate.Ballot(items, tmp_path / "choices.jsonl", seed=3)

    @pytest.fixture
    def address(self, ballot):
        server = rate.serve(ballot, 0)
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        server.server_close()

    def test_blind_and_in_random_order(self, ballot):
        """The page is told neither whose an answer is nor what the judge says; both sides occur."""
        shown = ballot.next()
        assert set(shown) == {"rated", "total", "done", "id", "question", "left", "right"}
        assert {True, False} == set(ballot.tuned_left)
        _, tuned, other = ballot.items[0]
        assert {shown["left"], shown["right"]} == {tuned, other}

    def test_counts_for_the_right_one(self, ballot):
        """Whoever always takes the tuned model's answer sees it win everything, and agrees with the judge."""
        while not ballot.done.is_set():
            item = ballot.next()
            ballot.choose(item["id"], "left" if item["left"] == ballot.items[item["id"]][1] else "right")
        agreed = "You and the judge agree on 6 of 6."
        assert ballot.summary() == f"The tuned model wins 100% [100%, 100%] of 6. {agreed}"
        assert json.dumps(ballot.agreement()) == "[6, 6]", "plain numbers, for result.json"
        again = rate.Ballot(ballot.items, ballot.file, seed=3)
        assert again.won == ballot.won and again.done.is_set()

    def test_choices_of_another_run_are_refused(self, ballot):
        ballot.choose(0, "tie")
        with pytest.raises(UserError, match="other answers"):
            rate.Ballot(ballot.items[::-1], ballot.file, seed=3)

    @pytest.mark.parametrize(
        "sent",
        [
            b"{",
            b"[]",
            b'{"id": 0, "choice": "up"}',
            b'{"id": 9, "choice": "left"}',
            b'{"id": true, "choice": "left"}',
            b'{"choice": "left"}',
            b"x" * 2000,
        ],
    )
    def test_nonsense_is_refused(self, ballot, address, sent):
        request = urllib.request.Request(address + "choose", sent, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=5)
        assert refusal.value.code in (400, 413) and not ballot.won and not ballot.file.exists()

    def test_only_its_own_pages(self, address):
        for path in ("etc/passwd", "../train.py", "next?x"):
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(address + path, timeout=5)
            assert refusal.value.code == 404
        with urllib.request.urlopen(address, timeout=5) as page:
            assert b"Which answer is better?" in page.read()

    def test_two_clicks_at_once_count_once(self, ballot):
        refused = []

        def click():
            try:
                ballot.choose(0, "left")
            except UserError as error:
                refused.append(error)

        clicks = [threading.Thread(target=click) for _ in range(8)]
        for one in clicks:
            one.start()
        for one in clicks:
            one.join()
        assert len(refused) == 7 and len(ballot.file.read_text().splitlines()) == 1


# ---- the lesson ----


def test_snippet_of_the_lesson_runs(home, capfd):
    """The code under "In production" is a test."""
    pytest.importorskip("trl")
    text = (FOLDER / "README.md").read_text("utf-8").split("## In production")[1]
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(compile(code, "README", "exec"), {})


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 6 …` and `explore 6 …` of the README is read as the command line reads it."""
    assert len(commands(FOLDER / "README.md")) >= 8
