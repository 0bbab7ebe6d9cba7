"""Training a draft: one layer on the text that the base read; or heads for a model that stays as it is."""

import random

import torch

from common.device import dtype_for
from common.errors import demand
from common.model import GPT, ModelConfig
from common.training import TrainConfig, train
from data import corpora
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.probe import end_id

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
    ids = read(words, config.corpus, config.characters)
    cut = len(ids) - max(4 * context, len(ids) // 20)
    demand(cut > 4 * context, f"{len(ids):,} tokens are too few to train on: more --characters")
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
