"""Distillation for a task: a small model learns to answer from a teacher that was tuned to.

Came before: `logit_kd` on running text, where every token counts. New here: conversations, of which only the
answers count, with the teacher's distribution at each of their tokens. And the other way to learn from a
teacher, which needs no logits of it and no common tokenizer: let it answer, and learn from what it said.

Seam: the objective, over project 4's packed rows.
Kim, Rush 2016 (sequence-level), 1606.07947; Hinton, Vinyals, Dean 2015, 1503.02531.
"""

from torch import Tensor

from common.exercise import exercise
from data.tinytown import check
from phase02_finetuning.project04_sft import skill
from phase02_finetuning.project04_sft.sft import Batch

from .logit_kd import LogitKD


class AnswerKD(LogitKD):
    """project 4's Batch -> loss over the answers alone: surprise, and distance to the teacher, as LogitKD."""

    @exercise
    def forward(self, batch: Batch) -> Tensor:
        """Both models read the packed rows, with their positions, behind their mask."""
        return self.of(batch.tokens, batch.targets, positions=batch.positions, mask=batch.mask)


@exercise
def retold(rows: list[dict], replies: list[str]) -> list[dict]:
    """The rows with the teacher's reply in place of the last message; those that it got wrong are left out.

    Who is right, `check(row, reply)` says. The rows that are given stay as they were.
    """
    pairs = zip(rows, replies, strict=True)
    return [{**row, "messages": [*skill.asked(row), {"role": "assistant", "content": reply}]}
            for row, reply in pairs if check(row, reply)]  # fmt: skip


def answered(teacher, tokenizer, rows: list[dict]) -> list[dict]:
    """The rows as the teacher answers them, greedy, where it is right."""
    return retold(rows, skill.replies(teacher, tokenizer, [skill.asked(row) for row in rows]))


def exact_match(model, tokenizer, rows: list[dict]) -> float:
    """The share of rows that a model answers rightly, 0 to 1, every row alike."""
    said = skill.replies(model, tokenizer, [skill.asked(row) for row in rows])
    return sum(check(row, reply) for row, reply in zip(rows, said, strict=True)) / len(rows)
