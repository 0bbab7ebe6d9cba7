"""Training who guesses: a draft of one layer, or heads, on what the model itself writes, or on what it read.

A draft is right when it says what the *model* says next, and the model's greedy text is not the corpus.
"""

import random
from itertools import chain, repeat

import torch

from common.device import dtype_for
from common.errors import demand
from common.model import GPT, ModelConfig
from common.training import TrainConfig, train
from data import corpora
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.probe import end_id
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for, decode_ragged

from .medusa import Medusa, MedusaLoss

# ---- what is read ----


def first(documents, characters):
    """The first of these documents, until they have so many characters together."""
    found = []
    for text in documents:
        if characters <= 0:
            break
        found.append(text)
        characters -= len(text)
    return found


def documents(corpus):
    """A corpus as documents: TinyTown's pages, without end; of any other, pieces of its text in any order."""
    if corpus == "tinytown":
        return TinyTown().pages()
    text = corpora.load(corpus)
    pieces = [text[i : i + 2000] for i in range(0, len(text), 2000)]
    return random.Random(0).sample(pieces, len(pieces))


def read(words, corpus, characters):
    """Ids (N,) of so many characters of the first corpus, and an eighth of that of each other, mixed."""
    names, found = corpus.split(","), []
    for i, name in enumerate(names):
        found += first(documents(name), characters if i == 0 else characters // 8)
    random.Random(1).shuffle(found)
    end = end_id(words)
    return torch.tensor([id for text in found for id in [*words.encode(text), end]])


def beginnings(words, corpus, count, longest):
    """So many beginnings of documents, of 4 to `longest` ids; a corpus that ends begins again."""
    rng, found, texts = random.Random(2), [], chain.from_iterable(documents(corpus) for _ in repeat(None))
    while len(found) < count:
        ids = words.encode(next(texts))[: rng.randint(4, longest)]
        found += [ids] if ids else []
    return found


def own(model, words, config, device, say):
    """Ids (N,) of what the model itself writes, greedily, behind beginnings of the first corpus's documents,
    each up to its end: behind that it would repeat itself.

    64 texts at a time.
    """
    end, new = end_id(words), min(config.new, model.config.max_seq_len * 9 // 10)
    prompts = beginnings(words, config.corpus.split(",")[0], config.answers, max(4, new // 4))
    prompts, found = [ids[: model.config.max_seq_len - new] for ids in prompts], []
    for i in range(0, len(prompts), 64):
        say(f"the model writes what is learnt: {i:,} of {len(prompts):,} texts")
        some = prompts[i : i + 64]
        caches = caches_for(model, StaticCache, len(some), max(map(len, some)) + new)
        for ids, answer in zip(some, decode_ragged(model, some, new, caches).tolist(), strict=True):
            ends = [i for i, id in enumerate(answer, 1) if id == end]
            found += [*ids, *answer[: ends[0] if ends else new]]
    return torch.tensor(found)


def batches(ids, rows, context, device):
    """batch_at(step) -> (inputs, targets), each (rows, context): windows from places that the step draws."""

    def batch_at(step):
        places = torch.Generator().manual_seed(step)
        starts = torch.randint(len(ids) - context, (rows, 1), generator=places)
        windows = ids[starts + torch.arange(context + 1)].to(device)  # (rows, context + 1)
        return windows[:, :-1], windows[:, 1:]

    return batch_at


# ---- what is trained ----


def objective_of(kind, model, config):
    """A new draft, or new heads, and the objective that trains it."""
    torch.manual_seed(config.seed)
    if kind == "heads":
        made = Medusa(model.config.d_model, config.heads)
        return made, MedusaLoss(model, made)
    sizes = ModelConfig(vocab_size=model.config.vocab_size, n_layer=config.n_layer, n_head=config.n_head,
                        n_kv_head=config.n_head, d_model=config.d_model, d_ff=config.d_ff,
                        max_seq_len=model.config.max_seq_len, rope_theta=model.config.rope_theta,
                        tie_embeddings=True)  # fmt: skip
    made = GPT(sizes)
    return made, CausalLM(made)


def fit(kind, model, words, config, device, folder, *, resume=False, say=print):
    """Train a draft or heads for a model: (what was trained, its loss on text held out)."""
    context = min(config.context, model.config.max_seq_len)
    if config.text == "own":
        ids = own(model, words, config, device, say)
    else:
        ids = read(words, config.corpus, config.characters)
    cut = len(ids) - max(4 * context, len(ids) // 20)
    demand(cut > 4 * context, f"{len(ids):,} tokens are too few to train on: more --answers or --characters")
    made, objective = objective_of(kind, model, config)
    objective.to(device)
    made.to(device)
    held = [batches(ids[cut:], 16, context, device)(10**9 + i) for i in range(4)]
    steps = max(1, config.tokens // (config.batch_size * context))
    bf16 = dtype_for(device) == torch.bfloat16
    settings = TrainConfig(steps=steps, learning_rate=config.learning_rate, warmup=steps // 20, beta2=0.95,
                           min_learning_rate=config.learning_rate / 20, log_every=-(-steps // 200),
                           eval_every=-(-steps // 4), save_every=steps,
                           precision="bf16" if bf16 else "fp32")  # fmt: skip

    def evaluate():
        return {"val_loss": sum(objective(batch).item() for batch in held) / len(held)}

    history = train(objective, batches(ids[:cut], config.batch_size, context, device), settings,
                    folder=folder, resume=resume, say=say, evaluate=evaluate)  # fmt: skip
    return made.eval(), history.series("val_loss")[1][-1]
