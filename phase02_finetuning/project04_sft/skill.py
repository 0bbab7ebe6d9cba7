"""What a tuned model can do: greedy replies to conversations, each judged right or wrong without a model.

Before: project 3's probe asked a base model to continue a page. New here: the question stands in the chat
template, and the whole reply counts, up to its <|im_end|>: TinyTown's rows bring a checker each.
"""

from collections import defaultdict

import torch

from common.errors import demand
from common.generate import Sampling, generate
from data.tinytown import check

from .sft import marks, prompt


def asked(row: dict) -> list[dict]:
    """The conversation of a row up to the reply that is wanted."""
    messages = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


@torch.no_grad()
def replies(model, tokenizer, conversations, *, max_tokens=48, batch=64) -> list[str]:
    """The likeliest reply to each conversation, up to <|im_end|> or max_tokens, in the order given.

    Conversations of equal length share a batch. Of one that leaves no room for max_tokens the end is read.
    """
    room = model.config.max_seq_len - max_tokens
    demand(room > 0, f"max_tokens {max_tokens} leaves no room in a context of {model.config.max_seq_len}")
    rows = [prompt(messages, tokenizer)[-room:] for messages in conversations]
    alike = defaultdict(list)  # rows of one batch hold equally many tokens
    for number, row in enumerate(rows):
        alike[len(row)].append(number)
    sampling, texts = Sampling(max_tokens=max_tokens, temperature=0.0), [""] * len(rows)
    ends = tuple({marks(tokenizer)[1], *tokenizer.eos_ids})
    for numbers in alike.values():
        for first in range(0, len(numbers), batch):
            part = numbers[first : first + batch]
            answers = generate(model, [rows[i] for i in part], sampling, tokenizer=tokenizer, eos_ids=ends)
            for i, answer in zip(part, answers, strict=True):
                texts[i] = answer.text
    return texts


def score(model, tokenizer, rows, **how) -> dict[str, float]:
    """The share of rows answered rightly, {family: 0 to 1}, by each row's own checker. how: of `replies`."""
    rows, right = list(rows), defaultdict(list)
    said = replies(model, tokenizer, [asked(row) for row in rows], **how)
    for row, reply in zip(rows, said, strict=True):
        right[row["family"]].append(check(row, reply))
    return {family: sum(found) / len(found) for family, found in right.items()}


def macro(scores: dict[str, float], families) -> float:
    """The mean over families, each counting alike; UserError where one was not scored."""
    missing = sorted(set(families) - scores.keys())
    demand(families and not missing, f"no score for {missing or 'any family'}: there are {sorted(scores)}")
    return sum(scores[family] for family in families) / len(families)
