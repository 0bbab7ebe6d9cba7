"""The project as a whole: its scripts, the technique in use, resume, bad input, the chat."""

import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.errors import UserError
from common.generate import Sampling
from common.trial import commands, model_folder, refused, run, unplugged
from data import corpora
from phase02_finetuning.project04_sft import _break, _data, _judge, bench, chat, explore, sft, train
from phase02_finetuning.project04_sft.sft import IGNORE

LESSON = Path(train.__file__).parent / "README.md"
TALK = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "A pear."}]


@pytest.fixture
def small(home, monkeypatch):
    """A tiny model as everybody's base, and judges that ask little."""
    folder = model_folder(home / "small", n_layer=1, max_seq_len=128)
    monkeypatch.setenv("THIRTY_OFFLINE", "1")
    monkeypatch.setattr(chain, "stand_in", lambda link, say=print: folder)
    monkeypatch.setattr(_judge, "FAMILIES", 4)
    monkeypatch.setattr(corpora, "load", lambda name: "How to write a manual. " * 200)
    monkeypatch.setattr(_judge, "skills", few_skills)
    return folder


def few_skills(model, tokenizer, judged, splits=("held-out", "rephrased")):
    """What `skills` gives, of one greedy token each."""
    names = [*_judge.REPORTED, "where", "knowledge", "follows", "in form"]
    found = {f"{split}: {name}": 0.5 for split in splits for name in names}
    return found | {"knowledge as text": 0.25, "knowledge in pages": 0.5}


# ---- the scripts ----


def test_smoke(small, home, capsys):
    """Tune on the town: a model folder with its card, tables, samples, a picture; then talk with it."""
    run(train, "smoke", "--save", "--rows", 24)
    said = capsys.readouterr().out
    for words in ("24 rows to learn from", "0 malformed", "of which count", "step 0: val_loss", "before:",
                  "perplexity of unseen pages", "rephrased", "guessing", "without a template",
                  "as pages ask"):  # fmt: skip
        assert words in said, f"the run did not say {words!r}"
    folder = home / "runs" / "project04_sft" / "smoke"
    assert (folder / "before_after.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["answer_loss"] < metrics["base: answer_loss"]
    card = json.loads((home / "models" / "sft" / "card.json").read_text())
    assert card["made_by"] == "project04_sft" and card["metrics"] == metrics and card["rows"] == 24
    tuned, base = hub.load(home / "models" / "sft"), hub.load(small)
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), base.parameters(), strict=True))
    assert tokenizers.load(home / "models" / "sft").sha256 == tokenizers.load(small).sha256
    run(chat, "smoke")
    said = capsys.readouterr().out
    assert f"{home / 'models' / 'sft'}" in said and "> Where does Mara work?" in said


def test_smoke_of_the_experiments(small, home, monkeypatch, capsys):
    """Every experiment runs, says what it found, and saves its picture."""
    monkeypatch.setattr(_break, "ASKING", dict(list(_break.ASKING.items())[:2]))
    run(explore, "smoke", "--rows", 8, "--sizes", 8, "--text", 150)
    said = capsys.readouterr().out
    assert all(f"\n{name}: " in said for name in explore.EXPERIMENTS)
    pictures = {"before_after", "masking", "template", "forgetting", "curves"}
    folder = home / "runs" / "project04_sft" / "explore-smoke"
    assert {path.stem for path in folder.glob("*.png")} == pictures
    assert "published instructions are not here" in said
    assert "no part is called nothing" in refused(capsys, explore, "smoke", "--parts", "nothing")


def test_smoke_of_the_bench(small, capsys):
    """Both speeds and the skills are measured, and both sides of each gave the same loss first."""
    pytest.importorskip("trl")
    claims = []

    def claim(name, sentence, **about):
        claims.append((name, about))

    fake = SimpleNamespace(
        mode="smoke", device=torch.device("cpu"), pick=lambda **each: each["smoke"], claim=claim,
        library=lambda name: True, compare=compared)  # fmt: skip
    bench.main(fake)
    names = [name for name, _ in claims]
    assert names == ["follows", "knowledge", "packing-tiny", "trl-tiny"]
    eta = claims[2][1]["settings"]["η"]
    assert 0 < eta <= 1 and claims[2][1]["bound"] == pytest.approx(1 / eta)


def compared(sides, check, **how):
    """Every side once, checked as `compare` would, and figures that nobody reads."""
    losses = {name: float(side()) for name, side in sides.items()}
    assert max(losses.values()) - min(losses.values()) < check, losses
    return SimpleNamespace(figures=lambda *args, **kwargs: {}, speedup=lambda *args: (1.0, None))


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 4 …` and `explore 4 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 8


# ---- the technique in use ----

PARTS = [(train, sft.encode), (train, sft.pack), (train, sft.pad), (train, sft.truncate), (train, sft.prompt),
         (train, sft.AnswerLoss.forward), (chat, sft.prompt)]  # fmt: skip


@pytest.mark.parametrize("script, part", PARTS, ids=lambda p: getattr(p, "__qualname__", ""))
def test_is_on(script, part, small):
    """A technique that raises makes the run fail: the run really uses what the learner wrote."""
    with unplugged(part):
        run(script, "smoke", *(("--rows", 8, "--text", 0, "--judged", 0) if script is train else ()))


def config(**changes):
    return train.Config(**{"batch_size": 6, "save": False, "rows": 40, **changes})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_matches_padding_over_a_whole_run(small, home):
    """Packed or padded, every update sees the same examples: the same losses, the same weights."""
    tokenizer, found = tokenizers.load(small), {}
    for packing in (True, False):
        settings = config(packing=packing, epochs=1, precision="fp32", context=120)
        data = _data.load(settings, tokenizer, 120, print)
        place = SimpleNamespace(folder=home / str(packing), resumed=False, say=lambda line: None,
                                device=torch.device("cpu"))  # fmt: skip
        model = hub.load(small)
        history = train.fit(model, data, settings, place, tokenizer.pad_id)
        found[packing] = [row["loss"] for row in history.train], weights(model)
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-5)
    assert (found[True][1] - found[False][1]).abs().max() < 1e-4


def test_every_row_is_read_once_an_epoch():
    """The order is a pure function of seed and update, and another one in the next epoch."""
    chosen = _data.order(40, config())
    epochs = [[i for update in range(7 * e, 7 * e + 7) for i in chosen(update)] for e in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 2 and epochs[0] != epochs[1]
    assert chosen(3) == _data.order(40, config())(3) != _data.order(40, config(seed=2))(3)


def test_a_stopped_run_goes_on_to_the_same_weights(small, home, capsys):
    """Killed at a checkpoint and resumed: bit for bit the model of the unbroken run."""
    options = ("smoke", "--rows", 24, "--judged", 0, "--text", 0, "--evals", 3)
    run(train, *options, "--out", home / "whole")

    class Killed(Exception):
        pass

    def die(line):
        if line.startswith("step 2"):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.cli.script.Run.say", lambda self, line: die(line))
        with pytest.raises(Killed):
            run(train, *options, "--out", home / "broken")
    run(train, *options, "--out", home / "broken", "--resume")
    whole, broken = (hub.load(home / name / "model") for name in ("whole", "broken"))
    assert torch.equal(weights(whole), weights(broken))


def test_rows_of_ones_own(small, home, capsys):
    """A file with a bad row in it: counted, the rest learned; refused if asked; long ones cut and counted."""
    long = {"messages": [{"role": "user", "content": "word " * 99}, TALK[1]]}
    rows = [{"messages": [{**TALK[0], "content": f"Name fruit {i}."}, TALK[1]]} for i in range(80)]
    lines = [json.dumps(row) for row in (*rows, {"text": "no"}, *[long] * 20)]
    (home / "rows.jsonl").write_text("\n".join(lines))
    options = ("smoke", "--data", "rows.jsonl", "--rows", 0, "--judged", 0, "--text", 0)
    run(train, *options)
    said = capsys.readouterr().out
    assert "rows.jsonl, line 81" in said and "1 malformed and left out" in said
    assert re.search(r"\b(1[5-9]|20) longer than 64 tokens and cut", said)
    assert "line 81" in refused(capsys, train, *options, "--on-bad", "refuse")
    (home / "few.jsonl").write_text("\n".join(lines[:3]))
    few = ("--data", "few.jsonl", "--rows", 0, "--judged", 0, "--text", 0)
    assert "at least 50" in refused(capsys, train, "smoke", *few)
    assert "never ends" in refused(capsys, train, "smoke", "--rows", 0)
    assert "cannot chat" in refused(capsys, train, "smoke", "--mode", "plain", "--save")


WRONG = [{"epochs": 0}, {"batch_size": 0}, {"context": 2}, {"rows": -1}, {"pages": -1.0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_are_checked(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        train.Config(**wrong)


def test_plain_text_counts_every_token(small):
    """--mode plain goes on with pretraining: no roles, every token a target."""
    tokenizer = tokenizers.load(small)
    data = _data.load(config(mode="plain", rows=10), tokenizer, 120, print)
    batch = _data.batches(data.train, config(rows=10), 120, tokenizer.pad_id)(0)
    assert all(all(example.counted) for example in data.train)
    assert not any(tokenizer.special["<|im_start|>"] in example.tokens for example in data.train)
    assert ((batch.targets == IGNORE) == (batch.tokens == tokenizer.pad_id)).all()


def test_pages_are_mixed_in(small):
    """A quarter as many tokens of running text as of rows, every one of them counted; shuffled in."""
    tokenizer = tokenizers.load(small)
    bare, mixed = (_data.load(config(pages=pages), tokenizer, 120, print) for pages in (0, 0.25))
    added = mixed.train[len(bare.train) :]
    assert mixed.train[: len(bare.train)] == bare.train and len(mixed.rows) == len(bare.train) == 40
    assert all(all(example.counted) for example in added)
    tokens = [sum(len(example.tokens) for example in part) for part in (bare.train, added)]
    assert tokens[0] // 4 <= tokens[1] <= tokens[0] // 4 + 120


def test_guessing_is_counted_by_hand():
    rows = [{"family": "yes_no", "answer": answer} for answer in ("yes", "no", "no", "no")]
    rows += [{"family": "read", "answer": "x", "rivals": rivals} for rivals in ([], ["y"])]
    rows += [{"family": "reverse", "answer": "a b c"}]
    expected = {"yes_no": 0.75, "read": 0.75, "reverse": 1 / 6, "count": 0.0}
    assert _judge.chance(rows) == pytest.approx(expected)


def test_text_loss_is_the_perplexity_of_the_text(small):
    """By hand: e to the mean loss of the windows."""
    tokenizer, model = tokenizers.load(small), hub.load(small).eval()
    text = "Tinytown is a small town. " * 8
    ids = torch.tensor([*tokenizer.encode(text), tokenizer.special["<|endoftext|>"]])[:100]
    windows = ids.unfold(0, 33, 32)
    logits = model(windows[:, :-1]).detach()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert _judge.text_loss(model, tokenizer, [text], 100, 32) == pytest.approx(loss.exp().item(), rel=1e-4)


# ---- the conversation ----


def talk_with(folder, **settings):
    sampling = Sampling(**{"max_tokens": 8, "temperature": 0.0, **settings})
    return chat.Conversation(hub.load(folder).eval(), tokenizers.load(folder), sampling)


def test_what_was_said_stands_in_the_prompt(small):
    """The second question comes after the first and its answer; a new conversation knows nothing of them."""
    talk = talk_with(small)
    first = "".join(talk.answer("Who?"))
    "".join(talk.answer("And where?"))
    assert [turn["role"] for turn in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[1]["content"] == first
    talk.begin("Be brief.")
    assert talk.messages == [{"role": "system", "content": "Be brief."}]


def test_the_oldest_exchange_goes_first(small):
    """What no longer fits is dropped in pairs; the system prompt stays, and so does the last question."""
    talk = talk_with(small)
    talk.begin("Be brief.")
    for i in range(9):
        "".join(talk.answer(f"Question {i}?"))
        assert talk.messages[0]["role"] == "system" and talk.messages[-2]["content"] == f"Question {i}?"
    assert len(talk.messages) < 9
    assert [turn["role"] for turn in talk.messages[1:3]] == ["user", "assistant"]


def test_a_broken_answer_stays_as_far_as_it_came(small):
    talk = talk_with(small)
    answer = talk.answer("Who?")
    piece = next(answer)
    answer.close()
    assert talk.messages[-1] == {"role": "assistant", "content": piece}


def test_chat_by_keyboard(small, monkeypatch, capsys):
    """Lines are answered until the input ends; words with a slash are commands."""
    typed = "Hello\n\n/help\n/system You are Mara.\nWho are you?\n/new\n/quit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    told = []
    monkeypatch.setattr(chat.Conversation, "answer", lambda self, text: told.append(text) or iter(["Yes."]))
    run(chat, "cpu")
    said = capsys.readouterr().out
    assert told == ["Hello", "Who are you?"] and said.count("Yes.") == 2
    assert said.count("(a new conversation)") == 2 and said.count(chat.HELP) == 2


def test_the_newest_model_is_taken(home, monkeypatch):
    """Of sft, lora and dpo the one that was made last; a name goes first; with none, a stand-in."""
    asked = []
    find = lambda link, named="", say=print: asked.append((link, named)) or "found"  # noqa: E731
    monkeypatch.setattr(chain, "find", find)
    assert chat.newest("", print) == "found" and chat.newest("mine", print) == "found"
    assert asked == [("sft", ""), ("sft", "mine")]
    for age, link in enumerate(("dpo", "sft")):
        model_folder(home / "models" / link, n_layer=1)
        card = home / "models" / link / "card.json"
        os.utime(card, (1000 + age, 1000 + age))
    assert chat.newest("", print) == home / "models" / "sft"
