"""Sampling against transformers' processors and against chance; generation against a plain loop."""

import dataclasses
import logging
import math

import pytest
import torch

from common.errors import UserError
from common.generate import Sampling, TextStream, draw, generate, sample, stream
from common.model import GPT, Cache
from common.sampling import mix, penalize, truncate
from common.testing import AddressedCache, tiny, trained


class Bytes:
    """Byte b is id b, and that is all; 3 ends a text and 4 pads."""

    eos_ids, pad_id = (3,), 4

    def token_bytes(self, token):
        return bytes([token])


@pytest.fixture(scope="module")
def counter():
    """Counts on: after 5, 7, 9 comes 11, modulo 32."""
    return trained()


def ids(*rows):
    return torch.tensor(rows)


# settings


@pytest.mark.parametrize("wrong, message", [
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": math.nan}, "top_p"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"stop": ("a", "")}, "stop"),
    ({"logprobs": -1}, "logprobs"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
])  # fmt: skip
def test_sampling_refuses(wrong, message):
    with pytest.raises(UserError, match=message):
        Sampling(**wrong)


def test_sampling_is_frozen_and_equal_by_value():
    assert Sampling(stop="ab") == Sampling(stop=["ab"]) and hash(Sampling()) == hash(Sampling())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().seed = 1
    assert [s.seed for s in Sampling(seed=7).rows(3)] == [7, 8, 9] and Sampling().rows(2) == [Sampling()] * 2


# draws


def test_mix_is_splitmix64():
    """The first five numbers that SplitMix64 gives for seed 1234567, as published with the algorithm."""
    state, step = 1234567, 0x9E3779B97F4A7C15
    got = [mix((state + i * step) % 2**64) for i in range(1, 6)]
    assert got == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip


@pytest.mark.parametrize("pairs", [
    [(seed, 0) for seed in range(20_000)],
    [(7, i) for i in range(20_000)],
    [(seed, seed + 1) for seed in range(20_000)],
])  # fmt: skip
def test_draws_are_uniform(pairs):
    """For neighbouring seeds, for neighbouring tokens, for both at once."""
    draws = torch.tensor([draw(*pair) for pair in pairs], dtype=torch.float64)
    assert draws.min() >= 0 and draws.max() < 1
    assert chi_square(torch.histc(draws, 50, 0, 1), torch.full((50,), 400.0)) < 85.4  # 49 degrees, 0.1 %
    assert abs(torch.corrcoef(torch.stack((draws[:-1], draws[1:])))[0, 1]) < 0.03


def chi_square(seen, expected):
    return ((seen - expected) ** 2 / expected).sum().item()


def many(logits, sampling, n=20_000):
    """How often each id is drawn by n requests with seeds 0 to n - 1."""
    draws = torch.tensor([draw(seed, 0) for seed in range(n)], dtype=torch.float64)
    return sample(logits.expand(n, -1), sampling, draws).bincount(minlength=logits.numel()).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_as_often_as_softmax_says(temperature):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0))
    expected = 20_000 * (logits.double() / temperature).softmax(-1)
    assert chi_square(many(logits, Sampling(temperature=temperature)), expected) < 31.3  # 11 degrees, 0.1 %


@pytest.mark.parametrize("sampling", [Sampling(top_k=3), Sampling(top_p=0.7), Sampling(min_p=0.3)])
def test_truncated_draws_follow_what_is_left(sampling):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0])
    left = truncate(logits[None], [sampling])[0].softmax(-1).double()
    seen = many(logits, sampling)
    assert seen[left == 0].sum() == 0 and 1 < (left > 0).sum() < 6
    assert chi_square(seen[left > 0], 20_000 * left[left > 0]) < 16.3  # at most 3 degrees, 0.1 %


# truncation against transformers


@pytest.mark.parametrize("settings", [
    {"top_k": 1}, {"top_k": 5}, {"top_k": 1000}, {"top_p": 0.01}, {"top_p": 0.5}, {"top_p": 0.95}, {"min_p":
    0.1}, {"min_p": 1.0}, {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
])  # fmt: skip
def test_truncation_equals_transformers(settings):
    from transformers.generation import logits_process as theirs

    logits = 3 * torch.randn(4, 97, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(**settings)
    want = logits / sampling.temperature
    if sampling.top_k:
        want = theirs.TopKLogitsWarper(sampling.top_k)(None, want)
    if sampling.top_p < 1:
        want = theirs.TopPLogitsWarper(sampling.top_p)(None, want)
    if sampling.min_p:
        want = theirs.MinPLogitsWarper(sampling.min_p)(None, want)
    assert torch.equal(truncate(logits / sampling.temperature, [sampling] * 4), want)


def test_penalty_equals_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(2, 97, generator=torch.Generator().manual_seed(0))
    tokens = ids([3, 3, 96], [0, 50, 7])
    seen = torch.zeros(2, 97, dtype=torch.bool).scatter(1, tokens, True)
    want = RepetitionPenaltyLogitsProcessor(1.3)(tokens, logits.clone())
    assert torch.equal(penalize(logits, [Sampling(repetition_penalty=1.3)] * 2, seen), want)
    with pytest.raises(UserError, match="pass seen"):
        sample(logits, Sampling(repetition_penalty=1.3), torch.zeros(2))


# sample


def test_rows_do_not_touch_each_other():
    """Rows of every kind in one batch get what each gets alone."""
    logits = torch.randn(6, 97, generator=torch.Generator().manual_seed(0))
    settings = [
        Sampling(), Sampling(temperature=0), Sampling(top_k=5), Sampling(top_p=0.6), Sampling(min_p=0.2),
        Sampling(temperature=2.0, top_k=50, top_p=0.9),
    ]  # fmt: skip
    draws = torch.tensor([draw(seed, 4) for seed in range(6)], dtype=torch.float64)
    together = sample(logits, settings, draws)
    alone = [sample(logits[i : i + 1], settings[i], draws[i : i + 1]) for i in range(6)]
    assert together.tolist() == torch.cat(alone).tolist() and together.shape == (6,)
    assert together[1] == logits[1].argmax()


def test_extreme_draws_and_temperatures():
    logits = torch.tensor([[5.0, 4.0, -math.inf, 3.0, -math.inf]])
    assert sample(logits, Sampling(), torch.tensor([0.0])).item() == 0
    assert sample(logits, Sampling(), torch.tensor([1 - 2**-52], dtype=torch.float64)).item() == 3
    assert sample(logits, Sampling(temperature=1e-30), torch.tensor([0.999])).item() == 0
    assert sample(logits * 1e30, Sampling(), torch.tensor([0.999])).item() == 0
    flat = sample(torch.zeros(1, 50_257), Sampling(), torch.tensor([0.5], dtype=torch.float64))
    assert flat.item() == 50_257 // 2
    assert sample(logits.bfloat16(), Sampling(temperature=0), torch.tensor([0.9])).item() == 0


@pytest.mark.parametrize("logits", [[[math.nan, 0.0]], [[-math.inf, -math.inf]], [[math.inf, 0.0]]])
def test_broken_logits_are_an_error(logits):
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(UserError, match="NaN or infinite"):
            sample(torch.tensor(logits), sampling, torch.zeros(1))


def test_as_many_samplings_as_rows():
    with pytest.raises(UserError, match="3 samplings for 2 rows"):
        sample(torch.zeros(2, 5), [Sampling()] * 3, torch.zeros(2))


# generate


def test_greedy_equals_a_plain_loop(counter):
    """Cached, against one full pass per token: the same ids (float64, a model with a clear argmax)."""
    prompt = ids([1, 3, 5, 7], [20, 19, 21, 20])
    want = prompt
    for _ in range(20):
        want = torch.cat((want, counter(want)[:, -1].argmax(-1, keepdim=True)), 1)
    got = generate(counter, prompt, Sampling(temperature=0, max_tokens=20))
    assert [list(answer.ids) for answer in got] == want[:, 4:].tolist()
    assert got[0].ids[:3] == (9, 11, 13) and got[0].finish == "length" and got[0].text == ""


def test_addressed_caches_are_handed_positions(counter):
    prompt, sampling = ids([1, 3, 5, 7], [2, 3, 4, 5]), Sampling(temperature=0, max_tokens=6)
    caches = [AddressedCache(2, 2, 8, 16, torch.float64) for _ in counter.blocks]
    assert generate(counter, prompt, sampling, caches=caches) == generate(counter, prompt, sampling)


def test_caches_that_hold_a_prefix(counter):
    caches, sampling = [Cache() for _ in counter.blocks], Sampling(temperature=0, max_tokens=5)
    with torch.no_grad():
        counter(ids([1, 3, 5]), caches=caches)
    assert generate(counter, ids([7, 9]), sampling, caches=caches) == generate(
        counter, ids([1, 3, 5, 7, 9]), sampling
    )


def test_a_seed_repeats_and_another_does_not(counter):
    prompt = ids([1, 2])
    hot = Sampling(temperature=3.0, max_tokens=30, seed=5)
    assert generate(counter, prompt, hot) == generate(counter, prompt, hot)
    assert generate(counter, prompt, hot) != generate(counter, prompt, dataclasses.replace(hot, seed=6))
    free = dataclasses.replace(hot, seed=None)
    assert generate(counter, prompt, free) != generate(counter, prompt, free)


def test_what_a_row_draws_does_not_depend_on_its_batch(counter):
    prompt, hot = [1, 2, 3], Sampling(temperature=3.0, max_tokens=20, seed=5)
    rows = generate(counter, [prompt, [9, 9, 9], prompt], hot.rows(3))
    assert rows[0].ids == generate(counter, [prompt], hot)[0].ids
    assert rows[2].ids == generate(counter, [prompt], dataclasses.replace(hot, seed=7))[0].ids
    same = generate(counter, [prompt, prompt], hot)
    assert same[0] == same[1], "one Sampling with a seed: equal rows draw alike"


def test_a_stopped_request_goes_on_as_if_it_had_not(counter):
    """Draw i belongs to (seed, i): taken up after ten tokens, with the draws from the tenth on."""
    hot = Sampling(temperature=3.0, max_tokens=20, seed=5)
    whole = generate(counter, [[1, 2]], hot)[0].ids
    logits = counter(ids([1, 2, *whole[:10]]))[:, -1]
    assert sample(logits, hot, torch.tensor([draw(5, 10)], dtype=torch.float64)).item() == whole[10]


def test_repetition_penalty_sees_the_prompt_and_the_answer(counter):
    sampling = Sampling(temperature=0, max_tokens=25, repetition_penalty=3.0)
    so_far = [1, 3]
    for _ in range(25):
        logits = counter(ids(so_far))[0, -1]
        for i in set(so_far):
            logits[i] = logits[i] / 3.0 if logits[i] > 0 else logits[i] * 3.0
        so_far.append(logits.argmax().item())
    [answer] = generate(counter, [[1, 3]], sampling)
    assert list(answer.ids) == so_far[2:]
    assert answer != generate(counter, [[1, 3]], Sampling(temperature=0, max_tokens=25))[0]


def test_end_of_text(counter):
    greedy = Sampling(temperature=0, max_tokens=8)
    [answer] = generate(counter, [[29, 31, 1]], greedy, tokenizer=Bytes())
    assert (answer.ids, answer.finish, answer.text) == ((3,), "stop", "")
    [answer] = generate(
        counter, [[29, 31, 1]], dataclasses.replace(greedy, ignore_eos=True), tokenizer=Bytes()
    )
    assert answer.ids == (3, 5, 7, 9, 11, 13, 15, 17) and answer.finish == "length"
    assert answer.text == bytes(answer.ids).decode()
    rows = generate(counter, [[29, 31, 1], [2, 4, 6]], greedy, eos_ids={14})
    assert [row.finish for row in rows] == ["length", "stop"] and rows[1].ids == (8, 10, 12, 14)


def test_rows_have_limits_of_their_own(counter):
    rows = generate(counter, [[1, 2], [1, 2]], [Sampling(temperature=0, max_tokens=n) for n in (2, 5)])
    assert [len(row.ids) for row in rows] == [2, 5]


def test_streaming_yields_as_it_draws(counter):
    pieces = stream(counter, [[1, 2]], Sampling(temperature=0, max_tokens=3), tokenizer=Bytes())
    first = next(pieces)
    assert (first.row, first.id, first.finish) == (0, 3, "stop")
    pieces = stream(counter, [[4, 5, 6], [6, 8, 10]], Sampling(temperature=0, max_tokens=2))
    assert [(p.row, p.id, p.finish) for p in pieces] == [
        (0, 7, None), (1, 12, None), (0, 8, "length"), (1, 14, "length"),
    ]  # fmt: skip


def test_eval_mode_is_lent_and_given_back():
    model = GPT(tiny(dropout=0.5))
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    a, b = (generate(model, [[1, 2]], Sampling(temperature=0, max_tokens=5)) for _ in range(2))
    assert a == b, "no dropout while drawing"
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_logprobs_are_the_models_own(counter):
    sampling = Sampling(temperature=0.5, top_k=3, max_tokens=4, seed=1, logprobs=2)
    [answer] = generate(counter, [[1, 3, 5]], sampling)
    for i, entry in enumerate(answer.logprobs):
        want = counter(ids([1, 3, 5, *answer.ids[:i]]))[0, -1].log_softmax(-1)
        assert entry.id == answer.ids[i] and entry.logprob == pytest.approx(want[entry.id].item(), abs=1e-5)
        assert [i for i, _ in entry.top] == want.topk(2).indices.tolist()
        assert [p for _, p in entry.top] == pytest.approx(want.topk(2).values.tolist(), abs=1e-5)
    mixed = generate(counter, [[1, 3, 5]] * 2, [sampling, Sampling(max_tokens=4)])
    assert mixed[0].logprobs == answer.logprobs and mixed[1].logprobs == ()


# the context


def test_a_long_prompt_keeps_its_most_recent_tokens(counter, caplog):
    long = [(3 * i) % 32 for i in range(100)]  # the context is 64
    with caplog.at_level(logging.WARNING):
        [answer] = generate(counter, [long], Sampling(temperature=0, max_tokens=10))
    [record] = caplog.records
    assert "100 tokens is longer than the context of 64: only the last 55 are read" in record.getMessage()
    assert answer == generate(counter, [long[-55:]], Sampling(temperature=0, max_tokens=10))[0]
    assert len(answer.ids) == 10
    [answer] = generate(counter, [long], Sampling(temperature=0, max_tokens=1000))
    assert len(answer.ids) == 32, "half of the context at least is the prompt's"


def test_an_answer_ends_with_the_context(counter):
    [answer] = generate(counter, [[1, 3, 5] * 20], Sampling(temperature=0))
    assert len(answer.ids) == 5 and answer.finish == "length"  # 60 + 4 are fed, the fifth is not
    caches = [Cache() for _ in counter.blocks]
    generate(counter, [[1, 3, 5] * 20], Sampling(temperature=0), caches=caches)
    with pytest.raises(UserError, match="the whole context"):
        generate(counter, [[1]], caches=caches)


# mistakes


@pytest.mark.parametrize("prompts, message", [
    ([], "empty"),
    ([[]], "empty"),
    ([[1, 2], []], "empty"),
    (torch.zeros(1, 0, dtype=torch.long), "empty"),
    ([[1, 2], [1, 2, 3]], "rows of 2 to 3 tokens in one batch; left padding is nowhere supported"),
    ([[4, 1, 2]], "begins with padding; left padding is nowhere supported"),
    ([1, 2], "wrap a single row"),
    (torch.tensor([1, 2]), "wrap a single row"),
    ("text", "encode text first"),
    (["text"], "encode text first"),
    ([[1, 32]], r"\[32\] are not among the model's 32"),
    ([[-1]], r"\[-1\] are not among"),
])  # fmt: skip
def test_prompts_that_are_refused(counter, prompts, message):
    with pytest.raises(UserError, match=message) as error:
        generate(counter, prompts, tokenizer=Bytes())
    assert "\n" not in str(error.value)


def test_an_end_of_text_that_also_pads_may_come_first(counter):
    class Both(Bytes):
        eos_ids, pad_id = (4,), 4

    [answer] = generate(counter, [[4, 6, 8]], Sampling(temperature=0, max_tokens=2), tokenizer=Both())
    assert answer.ids == (10, 12)


def test_other_mistakes(counter):
    with pytest.raises(UserError, match="pass the tokenizer"):
        generate(counter, [[1]], Sampling(stop="a"))
    with pytest.raises(UserError, match="2 samplings for 1 prompts"):
        generate(counter, [[1]], [Sampling()] * 2)
    caches = [Cache() for _ in counter.blocks]
    caches[1].length = 3
    with pytest.raises(UserError, match=r"caches of one model hold \[0, 3\] tokens"):
        generate(counter, [[1]], caches=caches)


def test_a_block_that_did_not_fill_its_cache_is_noticed(counter):
    class Lazy(Cache):
        def update(self, k, v, positions):
            return k, v

    with pytest.raises(UserError, match="did not fill its own"):
        generate(counter, [[1, 2]], caches=[Cache(), Lazy()])


# text


def pushed(text, data):
    return [text.push(byte) for byte in data.encode()] + [text.finish()]


def test_characters_come_whole():
    got = pushed(TextStream(Bytes()), "aé€😀")
    assert got == ["a", "", "é", "", "", "€", "", "", "", "😀", ""]
    broken = TextStream(Bytes())
    data = b"\xff\xe2\x82a\xf0\x9f"
    assert "".join([broken.push(byte) for byte in data]) + broken.finish() == data.decode(errors="replace")


def test_stop_texts_across_tokens():
    text = TextStream(Bytes(), ("\nUser:", "END"))
    assert "".join(pushed(text, "hello\nUs\nUser: more")) == "hello\nUs" and text.stopped
    text = TextStream(Bytes(), ("\nUser:",))
    assert [text.push(byte) for byte in b"a\nUs"] == ["a", "", "", ""], "held back while it may be a stop"
    assert text.push(ord("x")) == "\nUsx" and not text.stopped
    text = TextStream(Bytes(), ("aab",))
    assert "".join(pushed(text, "aaab")) == "a"
    text = TextStream(Bytes(), ("bc", "abcd"))
    assert "".join(pushed(text, "xabcd")) == "xa", "the first that is complete ends it"
    text = TextStream(Bytes(), ("stop",))
    assert "".join(pushed(text, "do not st")) == "do not st", "what never became a stop is shown at the end"


def test_stop_text_ends_generation(counter):
    stop = bytes([11, 13]).decode()
    [answer] = generate(
        counter, [[5, 7]], Sampling(temperature=0, stop=stop, max_tokens=20), tokenizer=Bytes()
    )
    assert (answer.ids, answer.finish, answer.text) == ((9, 11, 13), "stop", bytes([9]).decode())
    almost = Sampling(temperature=0, stop=bytes([13, 99]).decode(), max_tokens=3)
    [answer] = generate(counter, [[5, 7]], almost, tokenizer=Bytes())
    assert answer.text == bytes([9, 11, 13]).decode(), "held back, then shown, as it was no stop after all"
