"""Replies and their scores."""

import json
from itertools import islice

import pytest
import torch

from common.errors import UserError
from common.generate import Answer, Sampling, generate
from data.tinytown import TinyTown
from phase02_finetuning.project04_sft import skill
from phase02_finetuning.project04_sft.sft import plain_prompt, prompt


def test_replies_are_those_of_one_at_a_time(model, tokenizer, talks):
    """Grouped by length or alone, a conversation gets the same reply, and in its own place."""
    asked = [talk[:-1] for talk in (*talks, *talks[:2])]
    together = skill.replies(model, tokenizer, asked, max_tokens=6, batch=2)
    sampling = Sampling(max_tokens=6, temperature=0.0)
    for talk, reply in zip(asked, together, strict=True):
        assert generate(model, [prompt(talk, tokenizer)], sampling, tokenizer=tokenizer)[0].text == reply
    assert len(set(together)) > 1


def test_replies_stop_at_the_end_of_the_turn(model, tokenizer, talks):
    """A model that says only <|im_end|> says nothing, in one token."""
    model.norm.weight.data.zero_()
    model.head.weight.data.zero_()
    model.head.bias = torch.nn.Parameter(model.head.weight[:, 0].clone())
    model.head.bias.data[tokenizer.special["<|im_end|>"]] = 1.0
    [answer] = skill.answers(model, tokenizer, [talks[0][:1]], max_tokens=6)
    assert answer.text == "" and len(answer.ids) == 1 and answer.finish == "stop"


def test_of_a_long_conversation_the_end_is_read(model, tokenizer, talks):
    """More than the context holds: the last tokens, with room for the reply."""
    long = [{"role": "user", "content": "word " * 400}]
    room = prompt(long, tokenizer)[-(model.config.max_seq_len - 6) :]
    sampling = Sampling(max_tokens=6, temperature=0.0)
    expected = generate(model, [room], sampling, tokenizer=tokenizer)[0].text
    assert skill.replies(model, tokenizer, [long], max_tokens=6) == [expected]
    with pytest.raises(UserError, match="no room"):
        skill.replies(model, tokenizer, [long], max_tokens=10_000)


def test_the_way_of_asking_can_be_exchanged(model, tokenizer, talks):
    plainly = skill.replies(model, tokenizer, [talks[0][:1]], max_tokens=6, ask=plain_prompt)
    sampling, row = Sampling(max_tokens=6, temperature=0.0), plain_prompt(talks[0][:1], tokenizer)
    assert plainly == [generate(model, [row], sampling, tokenizer=tokenizer)[0].text]


def spoken(monkeypatch, replies):
    """skill.answers gives these texts."""
    answers = [Answer((), text, (), "stop") for text in replies]
    monkeypatch.setattr(skill, "answers", lambda *args, **how: answers)


def test_scores_are_shares_by_family(monkeypatch):
    """Right replies score 1 in every family; a wrong one lowers its own family's share alone."""
    rows = list(islice(TinyTown().instructions("held-out"), 46))
    right = [row["messages"][-1]["content"] for row in rows]
    spoken(monkeypatch, right)
    scores = skill.score(None, None, rows)
    assert len(scores) == 23 and set(scores.values()) == {1.0}
    assert skill.headline(scores) == {"knowledge": 1.0, "follows": 1.0}
    spoken(monkeypatch, ["Nonsense.", *right[1:]])
    scores = skill.score(None, None, rows)
    assert scores.pop(rows[0]["family"]) == 0.5 and set(scores.values()) == {1.0}


def test_macro_is_the_mean_of_families():
    scores = {"where": 0.0, "what": 0.5, "who": 1.0, "list": 1.0, "json": 0.0, "persona": 1.0, "refusal": 1.0}
    assert skill.macro(scores, ("where", "who")) == 0.5
    assert skill.headline(scores) == {"knowledge": 0.5, "follows": pytest.approx(3.5 / 5)}
    for families in ((), ("where", "nobody")):
        with pytest.raises(UserError, match="no score for"):
            skill.macro(scores, families)


def test_the_form_is_judged_apart_from_the_truth():
    """Wrong but in form; right in substance but not in form; cut off."""
    rows = {row["family"]: row for row in islice(TinyTown().instructions("held-out"), 23)}
    keys = list(json.loads(rows["json"]["answer"]))
    wrong = json.dumps(dict.fromkeys(keys, "nothing"))
    for family, text, fits in (
        ("json", wrong, True), ("json", "It is the inn.", False), ("json", "{}", False),
        ("json", "[1]", False), ("list", "- a\n- b", True), ("list", "a, b", False),
        ("where", "At home.", True), ("where", "At home.\nWhere else?", False),
        ("where", "word " * 60, False), ("where", "", False)):  # fmt: skip
        assert skill.in_form(rows[family], Answer((), text, (), "stop")) is fits, text
    assert not skill.in_form(rows["where"], Answer((), "At home.", (), "length"))
