"""What a run is made of: rows and batches, the model with its adapters, the optimiser, the score."""

import random
from itertools import islice

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.model import Block
from common.recipe import adamw, parameter_groups
from data.tinytown import TinyTown
from phase02_finetuning.project04_sft import skill
from phase02_finetuning.project04_sft.sft import AnswerLoss, encode, pack, truncate

from . import lora, nf4

FAMILIES = ("where", "what", "who", "list", "json", "persona", "refusal")  # the score is their mean

# ---- rows ----


def rows(split, n, seed=0, families=()):
    """n instruction rows of TinyTown."""
    return list(islice(TinyTown().instructions(split, seed, families=families), n))


def examples(tokenizer, table, context):
    """Rows as tokens, each of at most `context` of them."""
    return [truncate(encode(row["messages"], tokenizer), context) for row in table]


def batches(table, join, *, size, seed):
    """batch_at(step) -> join(`size` examples), a pure function of step; every epoch in another order."""
    per_epoch = -(-len(table) // size)

    def batch_at(step):
        epoch, place = divmod(step, per_epoch)
        order = random.Random(f"{seed} {epoch}").sample(range(len(table)), len(table))
        return join([table[i] for i in order[place * size : (place + 1) * size]])

    return batch_at


# ---- the model ----


class Recomputed(Block):
    """A block that keeps its input only and runs again in the backward pass. Chen et al. 2016, 1604.06174."""

    def forward(self, x, **where):
        if not torch.is_grad_enabled():
            return super().forward(x, **where)
        return checkpoint(super().forward, x, use_reentrant=False, **where)


def recompute(model):
    """Have every block forget its activations until the backward pass needs them; returns the model."""
    for block in model.blocks:
        block.__class__ = Recomputed
    return model


def dress(model, config):
    """The model as a method trains it: whole, with adapters, or with adapters on 4-bit matrices."""
    if config.checkpointing:
        recompute(model)
    if config.method == "full":
        return model.requires_grad_(True)
    settings, kind = config.lora_config, nn.Linear
    if config.method == "qlora":
        nf4.apply(model, tuple(name for name in settings.targets if name != "head"))
        kind = nf4.NF4Linear
    return lora.apply(model, settings, kind=kind)


def undress(model):
    """A plain model again, that hub.save has a name for."""
    if any(isinstance(module, lora.LoRALinear) for module in model.modules()):
        lora.merge(model)
    for block in model.blocks:
        block.__class__ = Block
    return model


def count(model):
    """(weights that are trained, weights in all); 4-bit codes count as the weights they stand for."""
    coded = [m for m in model.modules() if isinstance(m, nf4.NF4Linear)]
    every = sum(p.numel() for p in model.parameters())
    every += sum(layer.in_features * layer.out_features for layer in coded)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), every


# ---- the optimiser ----


def in_8_bits(paged):
    """AdamW of bitsandbytes, two bytes of memory a weight instead of eight; paged: a GPU may lay it aside."""

    def make(objective, config):
        try:
            import bitsandbytes as bnb
        except ImportError:
            how = "pip install bitsandbytes, or the extra finetune; --optimizer adamw needs neither"
            raise UserError(f"an 8-bit optimiser takes bitsandbytes, which is not here: {how}") from None
        kind = bnb.optim.PagedAdamW8bit if paged else bnb.optim.AdamW8bit
        groups = parameter_groups(objective, config.weight_decay)
        return kind(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))

    return make


OPTIMIZERS = {"adamw": adamw, "adamw8bit": in_8_bits(False), "paged": in_8_bits(True)}

# ---- the score ----


def score(model, tokenizer, judged):
    """{"score": mean over FAMILIES, family: share of right replies} on held-out rows, `judged` of each."""
    asked = [row for family in FAMILIES for row in rows("held-out", judged, families=[family])]
    found = skill.score(model.eval(), tokenizer, asked)
    return {"score": skill.macro(found, FAMILIES), **found}


@torch.no_grad()
def answer_loss(model, table, context, pad_id, device):
    """Nats a token of the answers of held-out examples."""
    model.eval()
    nats = tokens = 0
    for first in range(0, len(table), 32):
        batch = pack(table[first : first + 32], context, pad_id).to(device)
        n = (batch.targets >= 0).sum().item()
        nats, tokens = nats + AnswerLoss(model)(batch).item() * n, tokens + n
    return nats / tokens
