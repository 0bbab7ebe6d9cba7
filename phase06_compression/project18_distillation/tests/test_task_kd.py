"""Answers alone count, packed rows are read as packed rows, and what the teacher said is a lesson."""

import copy

import pytest
import torch

from common import hub, tokenizer
from common.model import GPT
from common.testing import close, tiny
from common.trial import model_folder
from data.tinytown import TinyTown, check
from data.town_checks import gold
from phase02_finetuning.project04_sft import skill
from phase02_finetuning.project04_sft.sft import IGNORE, encode, pack, pad
from phase06_compression.project18_distillation import task_kd
from phase06_compression.project18_distillation.logit_kd import Teacher, naive_kd
from phase06_compression.project18_distillation.task_kd import AnswerKD, exact_match, retold


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(student, teacher, tokenizer, rows of TinyTown)"""
    folder = model_folder(tmp_path_factory.mktemp("teacher"), loud=6, n_layer=1, max_seq_len=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        student = GPT(tiny(vocab_size=260, n_layer=1, d_model=16, d_ff=24, max_seq_len=512))
    rows = [row for _, row in zip(range(6), TinyTown().instructions("train", seed=3), strict=False)]
    return student, hub.load(folder), tokenizer.load(folder), rows


@pytest.mark.exercise("AnswerKD.forward")
def test_packed_is_as_each_conversation_alone(room):
    """Several conversations in a row behind their mask: the naive loss over every answer, one by one."""
    student, teacher, words, rows = room
    examples = [encode(row["messages"], words) for row in rows[:3]]
    length = sum(len(example.tokens) for example in examples)
    batch = pack(examples, length, words.pad_id)
    assert len(batch.tokens) == 1
    got = AnswerKD(student, Teacher(teacher), 2.0, 0.7, chunk=16)(batch)
    parts = [[], [], []]
    for example in examples:
        alone = pad([example], words.pad_id)
        keep = alone.targets != IGNORE
        for part, value in zip(parts, (student(alone.tokens)[keep], teacher(alone.tokens)[keep],
                                       alone.targets[keep]), strict=True):  # fmt: skip
            part.append(value)
    close(got, naive_kd(*map(torch.cat, parts), 2.0, 0.7), "packed", rtol=1e-4, atol=1e-5)


@pytest.mark.exercise("AnswerKD.forward")
def test_is_on_what_is_asked_does_not_count(room):
    """The question's own tokens are no targets: a batch without answers costs nothing."""
    student, teacher, words, rows = room
    batch = pack([encode(rows[0]["messages"], words)], 512, words.pad_id)
    objective = AnswerKD(student, Teacher(teacher))
    assert objective(batch).item() > 0
    assert objective(batch._replace(targets=torch.full_like(batch.targets, IGNORE))).item() == 0


@pytest.mark.exercise("retold")
def test_retold_keeps_what_is_right(room):
    """The reply stands where the answer stood, wrong ones are gone, the rows given are as before."""
    rows = room[3]
    before = copy.deepcopy(rows)
    replies = [gold(row) if i % 2 else "no such answer, ever" for i, row in enumerate(rows)]
    found = retold(rows, replies)
    right = [row for row, reply in zip(rows, replies, strict=True) if check(row, reply)]
    assert rows == before and 0 < len(found) == len(right) < len(rows)
    for row, new in zip(right, found, strict=True):
        assert new["messages"][:-1] == skill.asked(row) and new["family"] == row["family"]
        assert new["messages"][-1] == {"role": "assistant", "content": gold(row)}


@pytest.mark.exercise("retold")
def test_retold_has_the_teachers_words(room):
    """What the teacher says is what is learned, not the row's own answer in its place."""
    rows = [row for row in room[3] if check(row, "  " + gold(row) + " ")]
    assert rows, "no checker forgives blanks"
    before, replies = copy.deepcopy(rows), ["  " + gold(row) + " " for row in rows]
    found = retold(rows, replies)
    assert [row["messages"][-1]["content"] for row in found] == replies and rows == before


def test_matches_the_checkers_own_score(room, monkeypatch):
    """Exact match is the share that the rows' checkers accept, every row alike."""
    _, teacher, words, rows = room
    said = [gold(row) for row in rows[:-2]] + ["no", "no"]
    monkeypatch.setattr(skill, "replies", lambda *a, **k: said)
    assert exact_match(teacher, words, rows) == pytest.approx((len(rows) - 2) / len(rows))
    assert len(task_kd.answered(teacher, words, rows)) == len(rows) - 2
