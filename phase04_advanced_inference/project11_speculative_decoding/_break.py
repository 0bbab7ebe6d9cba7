"""Break: rules that seem right, a cache that is not rolled back, no bonus, a draft that knows nothing."""

import torch

from common import plots
from common.generate import Sampling
from common.model import GPT
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from ._pair import written
from ._see import shown
from .drafts import ModelDraft
from .rounds import feed
from .speculative import Draft, accept, agree, pick, probabilities


def chi_square(counts, shares):
    """The chance of counts (n,) at least as far as these from what shares (n,) say, in [0, 1].

    Cells that expect fewer than 5 are joined, neighbours with neighbours, until about 10 are expected.
    """
    due = shares.double() / shares.sum() * counts.sum()
    rare = due < 5
    group = (due[rare].cumsum(0) // 10).long()
    last = max(0, int(group[-1]) - 1) if len(group) else 0  # what is left over goes to the last whole group
    joined = torch.zeros(2, last + 1, dtype=torch.float64)
    joined.index_add_(1, group.clamp(max=last), torch.stack((counts.double(), due))[:, rare])
    seen, due = torch.cat((torch.stack((counts.double(), due))[:, ~rare], joined), 1)
    if (seen[due == 0] > 0).any():
        return 0.0  # what cannot happen did
    seen, due = seen[due > 0], due[due > 0]
    if len(due) < 2:
        return 1.0  # a single cell tells nothing
    distance, freedom = ((seen - due) ** 2 / due).sum(), torch.tensor(len(due) - 1.0)
    return torch.special.gammaincc(freedom / 2, distance.float() / 2).item()


def longest_match(guesses, p, q, draws):
    """Keep a guess if the large model likes it best, else draw from the large model."""
    best = guesses[0] == int(p[0].argmax())
    return guesses if best else [pick(p[0], draws[0, 1])]


def without_residual(guesses, p, q, draws):
    """Keep a guess with min(1, p / q), else draw from p, as if nothing had been kept."""
    kept = draws[0, 0] * q[0, guesses[0]] < p[0, guesses[0]]
    return guesses if kept else [pick(p[0], draws[0, 1])]


RULES = {"exact": accept, "longest match": longest_match, "without the residual": without_residual}


@torch.no_grad()
def count(model, small, ids, n):
    """(the large model's shares after ids, {rule: how often each id came}) of n draws at temperature 1."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor([ids], device=model.embed.weight.device)
    p, q = (probabilities(one(tokens)[0, -1:], Sampling()).cpu() for one in (model, small))
    guesses = torch.multinomial(q[0], n, replacement=True, generator=generator).tolist()
    draws = torch.rand(n, 2, 2, generator=generator, dtype=torch.float64)
    both, counts = torch.cat((p, p)), {}
    for name, rule in RULES.items():
        firsts = [rule([g], both, q, u)[0] for g, u in zip(guesses, draws, strict=True)]
        counts[name] = torch.bincount(torch.tensor(firsts), minlength=p.size(1))
    return p[0], counts


def longest(lab) -> dict:
    """Rules that seem right, under sampling: what they write is not what the model would."""
    [ids] = lab.prompts(1)
    p, counts = count(lab.model, lab.pair.small, ids, lab.config.draws)
    top = p.topk(min(8, len(p))).indices.tolist()
    words = [shown(lab.pair.words, id) for id in top]
    fig, ((ax,),) = plots.figure(width=10.0)
    shares = {"the model's shares": p, **{name: found / found.sum() for name, found in counts.items()}}
    plots.bars(ax, {word: {name: s[id].item() for name, s in shares.items()}
                    for word, id in zip(words, top, strict=True)}, label="")  # fmt: skip
    ax.set(title=f"The next token, drawn {lab.config.draws:,} times", ylabel="share")
    plots.legend(ax)
    lab.save(fig, "longest.png")
    found = {name: chi_square(counts[name], p) for name in counts}
    for name, chance in found.items():
        lab.say(f"  {name:22} chi-square p = {chance:.2g}")
    return {f"p, {name}": chance for name, chance in found.items()}


@torch.no_grad()
def never_back(lab, ids, draft):
    """Greedy, and the positions only ever count up: keys of wrong guesses stay before what follows."""
    text, at = list(ids), 0
    caches = caches_for(lab.model, StaticCache, 1, len(ids) + lab.n * (lab.config.k + 2))

    class Writing:  # as much of a Text as a draft asks for
        id, sampling, guesses = 0, lab.greedy, []

        class row:
            left, seed = lab.n, 0

    writing, fed = Writing(), text
    while len(text) < len(ids) + lab.n and at + lab.config.k + 1 < lab.model.config.max_seq_len:
        writing.ids, writing.n_new = text, len(text) - len(ids)
        draft.propose([writing])
        fed = fed + writing.guesses
        hidden = feed(lab.model, caches, [(0, at, fed)])[0]
        at += len(fed)
        best = lab.model.head(hidden[-len(writing.guesses) - 1 :]).argmax(-1).tolist()
        text = text + agree(writing.guesses, best)
        fed = text[-1:]
    return text[len(ids) :]


class NeverBack(ModelDraft):
    """The draft's own cache is not rolled back: it believes its last guesses for ever."""

    def propose(self, texts):
        for text in texts:
            if held := self.fed.get(text.id):
                self.fed[text.id] = [*text.ids[: len(held)], *held[len(text.ids) :]]
        super().propose(texts)


def rollback(lab) -> dict:
    """No rollback of the large model's cache ruins the text; of the draft's, only the speed."""
    size, found = lab.T + lab.n, {}
    [ids] = lab.prompts(1)
    [right], good = written(lab.model, [ids], [lab.greedy], lab.pair.draft("model", lab.config.k, size=size))
    wrong = never_back(lab, ids, ModelDraft(lab.pair.small, lab.config.k))
    same = [x == y for x, y in zip(right, wrong, strict=False)]
    found["same tokens, model not rolled back"] = sum(same) / max(1, len(same))
    stale = NeverBack(lab.pair.small, lab.config.k, size=size)
    [text], bad = written(lab.model, [ids], [lab.greedy], stale)
    found["same text, draft not rolled back"] = float(text == right)
    found["rounds"], found["rounds, draft not rolled back"] = len(good), len(bad)
    lab.say(f"  right: …{lab.pair.words.decode(right[:40])!r}")
    lab.say(f"  not rolled back: …{lab.pair.words.decode(wrong[:40])!r}")
    share, what = sum(same) / max(1, len(same)), "the right text" if text == right else "ANOTHER TEXT"
    lab.say(f"  {share:.0%} of those tokens are the right ones. Draft not rolled back: {what}, in {len(bad)} "
            f"rounds instead of {len(good)}")  # fmt: skip
    return found


def bonus(lab) -> dict:
    """Without the token that comes free where all guesses held: the same text, in more forwards."""
    size, rounds = lab.T + lab.n, {}

    class NoBonus(ModelDraft):
        def verify(self, text, logits):
            ids = super().verify(text, logits)
            return ids[:-1] if text.guesses and len(ids) == len(text.guesses) + 1 else ids

    texts = []
    for name, kind in (("with it", ModelDraft), ("without", NoBonus)):
        found, _ = lab.each(lambda kind=kind: kind(lab.pair.small, lab.config.k, size=size), lab.prompts())
        rounds[name] = sum(len(taken) for _, taken, _ in found)
        texts.append([new for new, _, _ in found])
    same = sum(x == y for x, y in zip(*texts, strict=True))
    lab.say(f"  {rounds['with it']} forwards with it, {rounds['without']} without; {same} of {len(texts[0])} "
            "texts are the same")  # fmt: skip
    return {**rounds, "same": same, "of": len(texts[0])}


def stranger(lab) -> dict:
    """A draft that was never trained: the text is the same, and every guess is paid for."""
    torch.manual_seed(0)
    unknown = GPT(lab.pair.small.config).to(lab.device).eval()
    [ids], size = lab.prompts(1), lab.T + lab.n
    found = {}
    for name, make in (("one by one", Draft),
                       ("untrained", lambda: ModelDraft(unknown, lab.config.k, size=size))):  # fmt: skip
        found[name] = lab.each(make, [ids])
    gain = found["one by one"][1] / found["untrained"][1]
    texts = [new for results, _ in found.values() for new, *_ in results]
    lab.say(f"  {'the same text' if texts[0] == texts[1] else 'ANOTHER TEXT'}, {gain:.2f} times as fast")
    return {"same": float(texts[0] == texts[1]), "times as fast": gain}
