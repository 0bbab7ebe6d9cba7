"""The template, who counts, rows of a batch, and the loss."""

from random import Random

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.proofs import prove
from phase02_finetuning.project04_sft.sft import (
    IGNORE,
    AnswerLoss,
    Batch,
    Example,
    encode,
    every_logit,
    pack,
    pad,
    plain,
    plain_prompt,
    prompt,
    shelves,
    truncate,
)

PAD = 299


def some(n=12, seed=0, longest=20):
    """Examples of random tokens and lengths, about half of each counted."""
    draw = Random(seed)
    found = []
    for _ in range(n):
        length = draw.randrange(3, longest)
        counted = [False, *(draw.random() < 0.5 for _ in range(length - 2)), True]
        found.append(Example([draw.randrange(290) for _ in range(length)], counted))
    return found


# ---- the template ----


@pytest.mark.exercise("encode")
def test_matches_the_jinja_template(tokenizer, talks):
    """By hand as by the folder's own template, whatever is said: special tokens, spaces, other scripts."""
    for talk in talks:
        assert encode(talk, tokenizer).tokens == tokenizer.chat_ids(talk)


@pytest.mark.exercise("prompt")
def test_matches_the_generation_prompt(tokenizer, talks):
    """The conversation as it is encoded, and the head of the answer that is wanted."""
    for talk in talks:
        assert prompt(talk[:-1], tokenizer) == tokenizer.chat_ids(talk[:-1], add_generation_prompt=True)
    assert tokenizer.decode(prompt(talks[0][:1], tokenizer)).endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.exercise("encode")
def test_answers_and_their_end_count(tokenizer, talks):
    """Content of the assistant and <|im_end|>: not the head, not the question, not the last line break."""
    example = encode(talks[0], tokenizer)
    assert len(example.tokens) == len(example.counted)
    assert all(type(flag) is bool for flag in example.counted)
    said = [token for token, counts in zip(*example, strict=True) if counts]
    assert tokenizer.decode(said) == "At the inn.<|im_end|>"
    example = encode(talks[1], tokenizer)
    said = tokenizer.decode(t for t, counts in zip(*example, strict=True) if counts)
    # the line break that ends the head lies in one token with the two after it, and counts with them
    assert said == "I am Mara.\n\nAnd you?<|im_end|>\n\n\n  A name!\n<|im_end|>"


@pytest.mark.exercise("encode")
def test_what_spells_a_special_token_stays_text(tokenizer, talks):
    """Nobody can end a turn or begin one by writing so: the marks are as many as the turns."""
    tokens = encode(talks[2], tokenizer).tokens
    for name in ("<|im_start|>", "<|im_end|>"):
        assert tokens.count(tokenizer.special[name]) == 2
    assert "mean?" in tokenizer.decode(tokens)


@pytest.mark.exercise("encode")
def test_an_empty_conversation_is_refused(tokenizer):
    """One line for a conversation without a message; an empty answer still teaches where to stop."""
    with pytest.raises(UserError, match="empty"):
        encode([], tokenizer)
    silent = encode([{"role": "assistant", "content": ""}], tokenizer)
    end = tokenizer.special["<|im_end|>"]
    assert [t for t, counts in zip(*silent, strict=True) if counts] == [end]


@pytest.mark.exercise("truncate")
def test_truncate_takes_the_oldest_first():
    """What is short stays; what is long loses its beginning, and never a counted token before all else."""
    example = Example(list(range(10)), [False] * 6 + [True] * 3 + [False])
    assert truncate(example, 10) == example and truncate(example, 64) == example
    assert truncate(example, 6) == Example([4, 5, 6, 7, 8, 9], [False, False, True, True, True, False])
    two = Example(list(range(10)), [False, True, True, False, False, False, True, True, True, False])
    assert truncate(two, 7).tokens == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.exercise("truncate")
def test_truncate_keeps_the_beginning_of_an_answer():
    """An answer that is too long by itself keeps its first tokens and the one before, and loses its end."""
    example = Example(list(range(10)), [False] * 3 + [True] * 7)
    assert truncate(example, 4) == Example([2, 3, 4, 5], [False, True, True, True])
    nothing = Example(list(range(10)), [False] * 10)
    assert len(truncate(nothing, 4).tokens) == 4


def test_plain_text_has_no_roles(tokenizer, talks):
    """Plain fine-tuning: the words on lines of their own, each counted; the prompt is its beginning."""
    example, asked = plain(talks[0], tokenizer), plain_prompt(talks[0][:1], tokenizer)
    text = "<|endoftext|>Where does Mara work?\nAt the inn.<|endoftext|>"
    assert tokenizer.decode(example.tokens) == text and all(example.counted)
    assert example.tokens[: len(asked)] == asked


# ---- rows of a batch ----


@pytest.mark.exercise("pad")
def test_padding_shifts_and_ignores():
    """targets[b, t] is the token after tokens[b, t] where that counts; what fills up asks for nothing."""
    one, two = Example([5, 6, 7, 8], [False, False, True, True]), Example([9, 4], [False, True])
    batch = pad([one, two], PAD)
    assert batch.tokens.tolist() == [[5, 6, 7], [9, PAD, PAD]]
    assert batch.targets.tolist() == [[IGNORE, 7, 8], [4, IGNORE, IGNORE]]
    assert batch.positions is None and batch.mask is None
    assert batch.tokens.dtype == batch.targets.dtype == torch.long


@pytest.mark.exercise("pack")
def test_packing_keeps_strangers_apart():
    """Positions begin again with each example, and a token sees its own example up to itself."""
    one, two = Example([5, 6, 7, 8], [False, False, True, True]), Example([9, 4, 3], [False, True, True])
    batch = pack([one, two, Example([1, 2], [False, True])], 5, PAD)
    assert batch.tokens.tolist() == [[5, 6, 7, 9, 4], [1, PAD, PAD, PAD, PAD]]
    assert batch.targets.tolist() == [[IGNORE, 7, 8, 4, 3], [2, *[IGNORE] * 4]]
    assert batch.positions[0].tolist() == [0, 1, 2, 0, 1] and batch.positions[1, 0] == 0
    assert batch.mask.shape == (2, 1, 5, 5) and batch.mask.dtype == torch.bool
    rows = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    assert batch.mask[0, 0].int().tolist() == rows
    assert batch.mask.any(-1).all(), "whoever may look at nobody has a softmax over nothing: NaN"


@pytest.mark.exercise("pack")
def test_packing_loses_nothing():
    """Every example stands in one row, whole, and no row is longer than the context."""
    for seed in range(20):
        examples = some(seed=seed)
        batch = pack(examples, 32, PAD)
        assert batch.tokens.size(1) <= 32
        starts = (batch.positions == 0) & (batch.tokens != PAD)
        first = sorted(batch.tokens[starts].tolist())
        assert first == sorted(example.tokens[0] for example in examples)
        assert (batch.targets != IGNORE).sum() == sum(sum(example.counted[1:]) for example in examples)
        assert (batch.tokens != PAD).sum() == sum(len(example.tokens) - 1 for example in examples)
    with pytest.raises(UserError, match="truncate"):
        pack([Example([1] * 40, [True] * 40)], 32, PAD)


def test_shelves_are_nearly_full():
    """First fit decreasing: each once, no shelf too full, at most 11/9 of what the sum of lengths needs."""
    draw = Random(0)
    lengths = [draw.randrange(5, 60) for _ in range(400)]
    rows = shelves(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(400))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 256
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 256) + 1


# ---- the loss ----


def gradients(model, batch):
    model.zero_grad()
    loss = AnswerLoss(model)(batch)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.exercise("AnswerLoss.forward", "pack", "pad")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_padding_when_packed(model, dtype):
    """The packed loss is the padded loss, to 1e-5 and closer, and so is every gradient."""
    model, examples = model.to(dtype), some()
    padded, packed = pad(examples, PAD), pack(examples, 40, PAD)
    assert packed.tokens.size(0) < padded.tokens.size(0) / 2
    (one, there), (other, here) = gradients(model, padded), gradients(model, packed)
    near = {"rtol": 0, "atol": 1e-10 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(other, one, **near)
    torch.testing.assert_close(here, there, **near)
    assert there.abs().max() > 1e-3


@pytest.mark.exercise("AnswerLoss.forward")
def test_matches_cross_entropy(model):
    """The mean over all tokens that count, as torch's cross_entropy has it over every logit."""
    batch = pad(some(), PAD)
    expected = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.targets.flatten())
    torch.testing.assert_close(AnswerLoss(model)(batch).double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(every_logit(model, batch).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.exercise("AnswerLoss.forward")
def test_a_batch_that_asks_for_nothing_costs_nothing(model):
    """Loss 0 and a gradient of zeros, not NaN."""
    tokens = torch.zeros(2, 4, dtype=torch.long)
    loss, gradient = gradients(model, Batch(tokens, torch.full_like(tokens, IGNORE)))
    assert loss == 0 and not gradient.any()


@pytest.mark.exercise("AnswerLoss.forward")
def test_the_head_reads_only_what_counts(model):
    """N rows for N targets, so that the logits of everything else are never made."""
    seen, batch = [], pad(some(), PAD)
    model.head.register_forward_hook(lambda module, given, made: seen.append(made.shape[:-1].numel()))
    AnswerLoss(model)(batch)
    assert seen == [int((batch.targets != IGNORE).sum())]


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
