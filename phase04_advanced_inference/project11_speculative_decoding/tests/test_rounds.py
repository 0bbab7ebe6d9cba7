"""The rounds: with any draft, at any place, the text is the one that the model writes alone."""

import random

import pytest
import torch

from common import hub
from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT
from common.testing import check_cache, tiny, trained
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding import rounds
from phase04_advanced_inference.project11_speculative_decoding.drafts import (
    ModelDraft,
    PromptLookup,
    lookup,
    still_true,
)  # fmt: skip
from phase04_advanced_inference.project11_speculative_decoding.medusa import Medusa, MedusaDraft
from phase04_advanced_inference.project11_speculative_decoding.rounds import Rows, Text, feed, speculate
from phase04_advanced_inference.project11_speculative_decoding.speculative import Draft, one_by_one

MODEL, SMALL = trained(), trained(steps=40, seed=3, n_layer=1)  # both float64, so that nothing ties
GREEDY = Sampling(max_tokens=20, temperature=0)
PROMPTS = [[1, 2, 3, 4], [4, 6, 8], [30, 3, 8, 13, 18], [9]]


def write(draft, prompts=PROMPTS, sampling=GREEDY, model=MODEL, **options):
    """What is written after each prompt, and what each round took of each text."""
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
    pairs = enumerate(zip(prompts, samplings, strict=True))
    texts = [Text(i, ids, each, model, **options) for i, (ids, each) in pairs]
    caches = caches_for(model, StaticCache, len(texts), 64)
    taken = list(speculate(model, texts, draft, caches))
    return [text.new for text in texts], taken


def alone(prompts=PROMPTS, sampling=GREEDY, **options):
    return [list(generate(MODEL, [ids], sampling, **options)[0].ids) for ids in prompts]


class Wild(Draft):
    """Guesses what no model would, any number of ids, and now and then the truth."""

    def __init__(self, right=0.0):
        super().__init__()
        self.rng, self.right = random.Random(0), right

    def propose(self, texts):
        for text in texts:
            stride = text.ids[-1] - text.ids[-2] if len(text.ids) > 1 else 1
            text.guesses = [(text.ids[-1] + stride * (i + 1)) % 32 if self.rng.random() < self.right
                            else self.rng.randrange(32) for i in range(self.rng.randrange(6))]  # fmt: skip


def drafts():
    torch.manual_seed(0)
    heads = Medusa(MODEL.config.d_model, 3).double()
    for layer in heads.layers:
        torch.nn.init.normal_(layer.weight, std=0.1)
    return {"never": Draft(), "wild": Wild(), "nearly": Wild(0.8), "itself": ModelDraft(MODEL, 4, 4),
            "small": ModelDraft(SMALL, 3, 4), "small, two rows": ModelDraft(SMALL, 3, 2),
            "small, short": ModelDraft(SMALL, 5, 4, size=12), "sure": ModelDraft(SMALL, 5, 4, sure=0.3),
            "text": PromptLookup(4), "heads": MedusaDraft(MODEL, heads)}  # fmt: skip


# ---- the same text ----


@pytest.mark.exercise("play", "still_true", "agree", "lookup")
@pytest.mark.parametrize("name", list(drafts()))
def test_greedy_text_is_the_same_with_any_draft(name):
    """Four texts at different places of a batch, greedy: token for token what the model writes alone."""
    written, _ = write(drafts()[name])
    assert written == alone()


@pytest.mark.exercise("play")
@pytest.mark.parametrize("name", ["text", "heads", "nearly"])
def test_drawn_text_is_the_same_where_no_chance_guessed(name):
    """Temperature, truncation and penalty: with guesses that no chance made, the very text of each seed."""
    samplings = [Sampling(max_tokens=15, temperature=1.3, seed=5), Sampling(max_tokens=9, top_p=0.9, seed=1),
                 Sampling(max_tokens=12, repetition_penalty=1.4, seed=2), GREEDY]  # fmt: skip
    written, _ = write(drafts()[name], sampling=samplings)
    assert written == [alone([ids], s)[0] for ids, s in zip(PROMPTS, samplings, strict=True)]


def test_a_drawn_text_depends_on_its_seed_alone():
    """With a small model that draws its guesses: the same text alone and in company, twice."""
    samplings = [Sampling(max_tokens=12, temperature=1.5, seed=s) for s in range(4)]
    together, _ = write(drafts()["small"], sampling=samplings)
    for ids, sampling, found in zip(PROMPTS, samplings, together, strict=True):
        assert write(drafts()["small"], [ids], sampling)[0] == [found]


def test_matches_transformers_assisted_generation(tmp_path):
    """`transformers` writes the same ids, with the same small model as its assistant and without."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    pair = []
    for name, model in (("large", GPT(tiny())), ("small", GPT(tiny(n_layer=1, d_model=16)))):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(6 if p.dim() > 1 else 1)  # so that its choices are clear, and differ
        hub.save(model.eval(), tmp_path / name)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval().double()
        pair.append((model.double(), theirs))
    (large, their_large), (small, their_small) = pair
    their_small.generation_config.num_assistant_tokens = 4
    their_small.generation_config.num_assistant_tokens_schedule = "constant"
    for prompt in ([[3, 14, 15, 92]], [[65, 35, 89]]):
        ids, options = torch.tensor(prompt), {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(ids)
        want = their_large.generate(ids, assistant_model=their_small, **options)[0, ids.size(1) :].tolist()
        sampling = Sampling(max_tokens=16, temperature=0)
        written, _ = write(ModelDraft(small, 4), prompt, sampling, large)
        assert written == [want] == [one_by_one(large, prompt[0], sampling)]
        assert want == their_large.generate(ids, **options)[0, ids.size(1) :].tolist()


def test_is_on(monkeypatch):
    """Forwards are really saved, guesses really come from the draft, and the verdict from the rule."""
    fed = []

    def watched(model, caches, work):
        fed.append((model, max(len(ids) for _, _, ids in work)))
        return feed(model, caches, work)

    monkeypatch.setattr(rounds, "feed", watched)
    written, taken = write(ModelDraft(MODEL, 4), [PROMPTS[0]])
    assert written == alone([PROMPTS[0]]) and taken == [{0: 5}] * 4
    assert [n for _, n in fed] == [4 + 4, 5, 5, 5]  # the prompt and four guesses, then an id and four
    _, taken = write(Draft(), [PROMPTS[0]])
    assert taken == [{0: 1}] * 20

    def broken(guesses, drawn):
        raise ZeroDivisionError("unplugged")

    monkeypatch.setattr("phase04_advanced_inference.project11_speculative_decoding.speculative.agree", broken)
    with pytest.raises(ZeroDivisionError, match="unplugged"):
        write(ModelDraft(MODEL, 4), [PROMPTS[0]])


# ---- a round ----


@pytest.mark.exercise("play")
def test_a_round_by_hand():
    """Two guesses right, the third wrong: three ids, and room for true keys of all but the last."""

    class Given(Draft):
        noted, closed = {}, []

        def propose(self, texts):
            for text in texts:
                text.guesses = [5, 6, 20, 21, 22]

        def note(self, text, hidden):
            self.noted[text.id] = hidden

        def close(self, id):
            self.closed.append(id)

    draft, text = Given(), Text(0, [1, 2, 3, 4], Sampling(max_tokens=5, temperature=0), MODEL)
    caches = caches_for(MODEL, StaticCache, 1, 16)
    assert rounds.play(MODEL, caches, draft, [text]) == [3]
    assert (text.new, text.held, text.guesses) == ([5, 6, 7], 6, []) and not draft.closed
    before = MODEL.hidden(torch.tensor([[1, 2, 3, 4, 5, 6]]))[0, -1]
    assert torch.allclose(draft.noted[0], before, atol=1e-10)
    assert rounds.play(MODEL, caches, draft, [text]) == [1]  # 5 is wrong now, and one guess was room for
    assert rounds.play(MODEL, caches, draft, [text]) == [1]  # the last id takes no guess
    assert text.new == [5, 6, 7, 8, 9] and text.row.finish == "length" and draft.closed == [0]


@pytest.mark.exercise("play")
def test_an_end_inside_a_round_ends_it():
    """What comes after the token that ends an answer is not taken, though it was guessed right."""
    options = {"eos_ids": (7,)}
    written, _ = write(drafts()["itself"], [[1, 2, 3, 4], [2, 4, 6]], **options)
    assert written == alone([[1, 2, 3, 4], [2, 4, 6]], **options) and written[0] == [5, 6, 7]


def test_texts_that_end_leave_the_forward(monkeypatch):
    """A batch of a short and a long text: the short one is not fed any more once it has ended."""
    rows = []
    monkeypatch.setattr(rounds, "feed", lambda model, caches, work: rows.append(len(work)) or feed(
        model, caches, work))  # fmt: skip
    samplings = [Sampling(max_tokens=n, temperature=0) for n in (2, 9)]
    written, _ = write(Draft(), PROMPTS[:2], samplings)
    assert rows == [2] * 2 + [1] * 7 and [len(new) for new in written] == [2, 9]


def test_rows_are_an_addressed_cache():
    def make(B, K, D, size):
        cache = StaticCache(B + 3, K, D, size)
        cache.k, cache.v = cache.k.to(torch.float32), cache.v.to(torch.float32)
        return Rows(cache, [3, 0, 4, 2][:B] if size % 2 else list(range(1, B + 1)), size)

    check_cache(make)
    check_cache(lambda B, K, D, size: make(B, K, D, size + 1 - size % 2))


def test_bad_texts_are_refused():
    for ids, n, why in (([], 4, "empty"), ([1] * 60, 9, "context of 64")):
        with pytest.raises(UserError, match=why):
            Text(0, ids, Sampling(max_tokens=n), MODEL)
    twice = [Text(0, [1], GREEDY, MODEL), Text(0, [2], GREEDY, MODEL)]
    with pytest.raises(UserError, match="one id"):
        next(speculate(MODEL, twice, Draft(), caches_for(MODEL, StaticCache, 2, 32)))
    for make in (lambda: ModelDraft(SMALL, 0), lambda: PromptLookup(0), lambda: Medusa(8, 0)):
        with pytest.raises(UserError, match="at least 1"):
            make()
    with pytest.raises(UserError, match="a share"):
        ModelDraft(SMALL, 2, sure=1.5)


# ---- who guesses ----


@pytest.mark.exercise("still_true")
def test_what_of_a_cache_is_still_true():
    """The beginning that both share; and never all of the text, as its last id has to be fed."""
    assert still_true([1, 2, 3, 9, 9], [1, 2, 3, 4]) == 3
    assert still_true([1, 2, 3], [1, 2, 3]) == 2
    assert still_true([], [5, 6]) == 0 and still_true([5], [5, 6]) == 1
    assert still_true([7, 2, 3], [1, 2, 3]) == 0


@pytest.mark.exercise("still_true")
def test_the_cache_of_the_draft_is_rolled_back():
    """After wrong guesses and right ones, the draft guesses what it would with a new cache; it feeds less."""
    wanted = []

    class Watched(ModelDraft):
        def propose(self, texts):
            super().propose(texts)
            fresh = ModelDraft(SMALL, 3)
            copy = Text(0, texts[0].ids[: texts[0].n_prompt], texts[0].sampling, SMALL)
            copy.ids = list(texts[0].ids)
            copy.row.left = texts[0].row.left
            fresh.propose([copy])
            wanted.append((copy.guesses, list(texts[0].guesses)))

    for prompt in PROMPTS:
        write(Watched(SMALL, 3), [prompt], Sampling(max_tokens=20, temperature=1.2, seed=3))
    assert len(wanted) > 20 and all(a == b for a, b in wanted)


def test_matches_transformers_prompt_lookup():
    """The candidates of `transformers`' prompt lookup, on random texts of few different ids."""
    generator = pytest.importorskip("transformers.generation.candidate_generator")
    rng, found = random.Random(0), 0
    for _ in range(120):
        ids = [rng.randrange(5) for _ in range(rng.randrange(2, 24))]
        K, longest = rng.randrange(1, 6), rng.randrange(1, 4)
        theirs = generator.PromptLookupCandidateGenerator(
            num_output_tokens=K, max_matching_ngram_size=longest, max_length=1000)  # fmt: skip
        want = theirs.get_candidates(torch.tensor([ids]))[0][0, len(ids) :].tolist()
        assert lookup(ids, K, longest) == want, (ids, K, longest)
        found += bool(want)
    assert 50 < found < 120


@pytest.mark.exercise("lookup")
def test_lookup_by_hand():
    assert lookup([1, 2, 3, 4, 1, 2], 2) == [3, 4]
    assert lookup([1, 2, 9, 3, 2, 9, 1, 2], 3) == [9, 3, 2]  # both of the last two, before one of them
    assert lookup([7, 2, 5, 1, 2, 6, 1, 2], 1) == [6]  # behind 1 2, not behind the first 2
    assert lookup([7, 7, 7], 4) == [7]  # it may reach into the last ids, not behind them
    assert lookup([1, 2, 3], 4) == [] and lookup([5], 4) == []


def test_who_asks_for_logprobs_is_not_guessed_for():
    texts = [Text(0, [1, 2, 1, 2], Sampling(max_tokens=9, logprobs=2), MODEL)]
    for draft in (PromptLookup(3), ModelDraft(SMALL, 3)):
        draft.propose(texts)
        assert texts[0].guesses == []


def test_rows_of_a_draft_come_back():
    """More texts than rows, one after the other: nobody is left without guesses for ever."""
    draft = ModelDraft(SMALL, 3, rows=1)
    for number in range(3):
        _, taken = write(draft, [PROMPTS[0]])
        assert len(taken) < 20, number
    assert draft.free == [0] and not draft.fed and not draft.q


def test_a_draft_stops_behind_the_first_guess_it_is_not_sure_of():
    for name, n in (("greedy", 0.0), ("drawn", 1.0)):
        text = Text(0, [1, 2, 3], Sampling(max_tokens=20, temperature=n, seed=5), MODEL)
        ModelDraft(SMALL, 8).propose([text])
        all_of_them, shares = list(text.guesses), []
        assert len(all_of_them) == 8
        for i, guess in enumerate(all_of_them):
            logits = SMALL(torch.tensor([[1, 2, 3, *all_of_them[:i]]]))[0, -1]
            shares.append(logits.softmax(-1)[guess].item())
        for sure in (0.0, *(share + 1e-6 for share in shares), 1.0):
            ModelDraft(SMALL, 8, sure=sure).propose([text])
            due = next((i for i, share in enumerate(shares, 1) if share < sure), 8)
            assert text.guesses == all_of_them[:due], (name, sure)


def test_guesses_that_chance_made_keep_their_shares():
    """Drawn guesses come with what they were drawn from; greedy ones without."""
    draft = ModelDraft(SMALL, 3, rows=2)
    drawn = Text(0, [1, 2, 3], Sampling(max_tokens=9, temperature=1.0, seed=1), MODEL)
    best = Text(1, [1, 2, 3], GREEDY, MODEL)
    draft.propose([drawn, best])
    assert list(draft.q) == [0] and draft.q[0].shape == (3, 32)
    logits = SMALL(torch.tensor([[1, 2, 3, *drawn.guesses[:2]]]))[0, 2:]
    assert torch.allclose(draft.q[0], logits.float().softmax(-1).double(), atol=1e-6)
    assert best.guesses[0] == int(SMALL(torch.tensor([[1, 2, 3]]))[0, -1].argmax())
