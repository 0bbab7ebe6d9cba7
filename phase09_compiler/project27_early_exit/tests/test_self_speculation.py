"""Self-speculation: the full model's text, token for token, as `transformers` writes it too; nothing is
computed twice; and training for it."""

import copy
import math
from collections import Counter

import pytest
import torch

from common import hub
from common.errors import UserError
from common.generate import Sampling
from common.model import GPT
from common.testing import trained
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, play
from phase04_advanced_inference.project11_speculative_decoding.speculative import one_by_one
from phase09_compiler.project27_early_exit.exit_loss import ExitLoss
from phase09_compiler.project27_early_exit.exits import exit_logits, restore
from phase09_compiler.project27_early_exit.self_speculation import (
    EarlyDraft,
    Lower,
    Resumed,
    frequent,
    self_speculate,
    speedup,
)

PROMPTS = [[3, 5, 7, 9], [1, 2, 3, 4, 5, 6, 7], [4], [30, 1, 4, 7, 10]]


def learned(**sizes):
    """A model that counts, and whose ways out have learnt a little what it says."""
    model = restore(trained(n_layer=4, steps=80, **sizes).float(), (1, 2, 3))
    objective, draw = ExitLoss(model.train(), most=0.0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(60):
            start, stride = (torch.randint(*ends, (16, 1), generator=draw) for ends in ((0, 32), (1, 5)))
            tokens = (start + stride * torch.arange(17)) % 32
            objective((tokens[:, :-1], tokens[:, 1:])).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.double().eval()


MODEL = learned()
GREEDY = Sampling(max_tokens=14, temperature=0)


def write(n, K, prompts, sampling=GREEDY, ids=None, model=MODEL):
    """(new ids of each, what each round took)"""
    texts = [Text(i, prompt, sampling, model) for i, prompt in enumerate(prompts)]
    taken = list(self_speculate(model, texts, n, K, ids))
    return [text.new for text in texts], taken


# ---- the text is the full model's ----


@pytest.mark.exercise("EarlyDraft.propose", "Resumed.hidden")
@pytest.mark.parametrize(
    ("n", "K", "few"), [(1, 5, None), (2, 3, [0, 3, 4, 9, 12, 15, 18, 31]), (3, 2, None)]
)
def test_matches_one_by_one(n, K, few):
    """Every way out, several numbers of guesses, texts alone and together, with all ids and with a few."""
    ids = few and torch.tensor(few)
    together, taken = write(n, K, PROMPTS, ids=ids)
    assert together == [one_by_one(MODEL, prompt, GREEDY) for prompt in PROMPTS]
    assert write(n, K, PROMPTS[1:2], ids=ids)[0] == together[1:2]
    if few is None and n == 3:
        assert len(taken) < 14  # rounds that brought more than a token


def test_matches_transformers_early_exit(tmp_path):
    """The same greedy text as `transformers` writes with its own self-speculation, at the same way out."""
    transformers = pytest.importorskip("transformers")
    model = learned(tie_embeddings=True).float()
    plain = GPT(model.config)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("exits.")})
    hub.save(plain, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    for prompt in PROMPTS[:2]:
        answer = theirs.generate(torch.tensor([prompt]), assistant_early_exit=2, do_sample=False,
                                 pad_token_id=0, max_new_tokens=14, eos_token_id=None)  # fmt: skip
        assert write(2, 4, [prompt], model=model.double())[0] == [answer[0, len(prompt) :].tolist()]


@pytest.mark.exercise("EarlyDraft.propose", "Resumed.hidden")
def test_drawn_text_follows_the_model():
    """800 first and second tokens, drawn as the guesses are, against the model's shares: chi-square."""
    prompt, n = [3, 5, 8], 800
    texts = [Text(i, prompt, Sampling(max_tokens=2, temperature=3.0, seed=i), MODEL) for i in range(n)]
    for _ in self_speculate(MODEL, texts, 1, 2):
        pass
    with torch.no_grad():
        first = (MODEL(torch.tensor([prompt]))[0, -1] / 3).softmax(-1)
        rows = torch.tensor([[*prompt, i] for i in range(32)])
        second = first @ (MODEL(rows)[:, -1] / 3).softmax(-1)
    for place, shares in enumerate((first, second)):
        seen = torch.bincount(torch.tensor([text.new[place] for text in texts]), minlength=32)
        often = shares * n >= 5
        rest = (seen[~often].sum() - n * shares[~often].sum()) ** 2 / (n * shares[~often].sum() + 1e-9)
        chi = ((seen - n * shares) ** 2 / (n * shares))[often].sum() + rest
        freedom = int(often.sum())
        assert chi < freedom + 5 * math.sqrt(2 * freedom), place


# ---- nothing is computed twice ----


def rows_of(model, n, K, prompt, sampling=GREEDY):
    """How many states each block computed, for each round, as lists of calls."""
    model, rounds, calls = copy.deepcopy(model), [], []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, x, y, i=i: calls.append((i, y.size(1))))
    for _ in self_speculate(model, [Text(0, prompt, sampling, model)], n, K):
        rounds.append(list(calls))
        calls.clear()
    return rounds


@pytest.mark.exercise("EarlyDraft.propose", "Resumed.hidden")
def test_is_on():
    """A round by its calls: the first blocks see each token once, the last guess in the check; the others see
    all of them at once. The prompt too is read once."""
    first, second = rows_of(MODEL, 2, 3, [1, 2, 3, 4, 5])[:2]
    assert first == [(0, 5), (1, 5), *[(0, 1), (1, 1)] * 2, (0, 1), (1, 1), (2, 8), (3, 8)]
    assert second == [*[(0, 1), (1, 1)] * 3, (0, 1), (1, 1), (2, 4), (3, 4)]


@pytest.mark.exercise("Resumed.hidden")
def test_what_is_resumed_is_the_model(monkeypatch):
    """Hidden states of a check, rows at different places and of different lengths, beside the model's."""
    texts = [Text(i, prompt, GREEDY, MODEL) for i, prompt in enumerate(PROMPTS)]
    caches, seen = caches_for(MODEL, StaticCache, 4, 40), []
    draft = EarlyDraft(MODEL, 2, 3, caches)
    resumed, hidden = Resumed(MODEL, draft), Resumed.hidden
    monkeypatch.setattr(Resumed, "hidden", lambda self, tokens, **where: seen.append(
        (hidden(self, tokens, **where), where["positions"])) or seen[-1][0])  # fmt: skip
    for _ in range(3):
        before = [list(text.ids) for text in texts]
        play(resumed, caches, draft, texts)
        x, positions = seen.pop()
        for row, ids in enumerate(before):
            last = len(ids) - 1 - int(positions[row, 0])
            with torch.no_grad():
                want = MODEL.hidden(torch.tensor([ids]))[0, -1]
            assert torch.allclose(x[row, last], want, atol=1e-9), row


@pytest.mark.exercise("EarlyDraft.propose")
def test_guesses_by_hand():
    """Each guess is the way out's likeliest after all before it; states stand from `held` on, the last
    guess's do not; who has one id left does not guess, and is not fed."""
    texts = [Text(0, [3, 5, 7], GREEDY, MODEL), Text(1, [4], Sampling(max_tokens=1, temperature=0), MODEL),
             Text(2, [2, 4], Sampling(max_tokens=3, temperature=0), MODEL)]  # fmt: skip
    draft = EarlyDraft(MODEL, 1, 4, caches_for(MODEL, StaticCache, 3, 40))
    draft.propose(texts)
    assert [len(text.guesses) for text in texts] == [4, 0, 2]
    for text in texts[::2]:
        ids = list(text.ids)
        for guess in text.guesses:
            with torch.no_grad():
                rows, positions = torch.tensor([ids]), torch.arange(len(ids))
                x = MODEL.blocks[0](MODEL.embed(rows, None), rope=MODEL.rope(positions), positions=positions)
                assert guess == int(exit_logits(MODEL, 1, x)[0, -1].argmax())
            ids.append(guess)
        assert torch.allclose(draft.states[text.id], x[0], atol=1e-9)
    assert list(draft.states) == [0, 2] and not draft.q


def test_bad_drafts_are_refused():
    caches = caches_for(MODEL, StaticCache, 1, 8)
    for n, K, why in ((4, 2, "no way out after 4"), (1, 0, "at least 1")):
        with pytest.raises(UserError, match=why):
            EarlyDraft(MODEL, n, K, caches)


# ---- a few ids ----


def test_frequent_ids_are_those_counted():
    ids = torch.randint(40, (500,), generator=torch.Generator().manual_seed(0)) ** 2 // 40
    counted, found = Counter(ids.tolist()), frequent(ids, 7).tolist()
    assert found == sorted(found) and len(found) == 7
    assert min(counted[i] for i in found) >= max(counted[i] for i in counted if i not in found)
    assert frequent(torch.tensor([5, 3, 5]), 9).tolist() == [3, 5]


def test_a_short_head_gives_the_others_no_chance():
    few = torch.tensor([2, 3, 17])
    x = torch.randn(2, 32, dtype=torch.float64)
    short, whole = Lower(MODEL, 2, few).head(x), Lower(MODEL, 2).head(x)
    assert torch.allclose(short[:, few], whole[:, few]) and torch.isinf(short).sum() == 2 * 29


def test_speedup_by_hand():
    """Half of the guesses hold: 1 + 1/2 + 1/4 tokens for two guesses of 0.2 and a check of 0.9."""
    assert speedup(0.5, 2, 0.2, 0.9) == pytest.approx(1.75 / 1.3)
