"""What a run is made of: the model at its sizes, its optimiser, and how it is spread over processes."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from common import recipe
from common.errors import UserError
from common.model import GPT, Block, ModelConfig
from common.process import several
from common.recipe import TrainConfig, parameter_groups

from .optimizers import AdEMAMix, ForeachAdamW, Lion, Muon

# ---- the model ----


def build(config, vocab_size: int) -> GPT:
    """A new model of a script's sizes, on the CPU; its weights come from torch's generator."""
    sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff")}
    return GPT(ModelConfig(vocab_size=vocab_size, max_seq_len=config.context, tie_embeddings=True, **sizes))


class Recomputed(Block):
    """A block that keeps its input only, and runs again in the backward pass: memory for a third more time.

    Chen et al. 2016, 1604.06174. A class and no wrapper, so that the names of the weights stay.
    """

    def forward(self, x, **where):
        if not torch.is_grad_enabled():
            return super().forward(x, **where)
        return checkpoint(super().forward, x, use_reentrant=False, **where)


def recompute(model: GPT) -> GPT:
    """Have every block forget its activations until the backward pass needs them; returns the model."""
    for block in model.blocks:
        block.__class__ = Recomputed
    return model


# ---- the optimisers ----

# Names are rare, and a row of the table moves only when its token occurs: at Muon's own rate all names stay
# nearly alike for most of a short run, and nothing can be known of one that is not known of all.
EMBEDDING = 2.0


def adamw(objective: nn.Module, config: TrainConfig):
    """Our AdamW, all parameters at once; matrices decay."""
    groups = parameter_groups(objective, config.weight_decay)
    return ForeachAdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def lion(objective: nn.Module, config: TrainConfig):
    """Lion: wants a learning rate 3 to 10 times lower than AdamW's, and as much more decay."""
    groups = parameter_groups(objective, config.weight_decay)
    return Lion(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def ademamix(objective: nn.Module, config: TrainConfig):
    """AdEMAMix, whose slow mean warms up over the whole run."""
    groups = parameter_groups(objective, config.weight_decay)
    betas = (config.beta1, config.beta2, 0.9999)
    return AdEMAMix(groups, lr=config.learning_rate, betas=betas, warmup=config.steps)


def muon(objective: nn.Module, config: TrainConfig, embedding: float = EMBEDDING):
    """Muon for the matrices of the blocks, AdamW for the table and the norms, `embedding` times as fast."""
    groups = parameter_groups(objective, config.weight_decay)
    inside = {p for name, p in objective.named_parameters() if ".blocks." in name and p.dim() == 2}
    rest = [{**group, "params": [p for p in group["params"] if p not in inside]} for group in groups]
    matrices = [p for group in groups for p in group["params"] if p in inside]
    return [
        Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, match_adamw=True),
        ForeachAdamW(rest, lr=embedding * config.learning_rate, betas=(config.beta1, config.beta2)),
    ]


OPTIMIZERS = {"adamw": adamw, "fused": recipe.adamw, "muon": muon, "lion": lion, "ademamix": ademamix}


# ---- several processes ----


def spread(objective: nn.Module, shard: bool, device: torch.device) -> nn.Module:
    """The objective for a process group: a copy in each process (DDP), or a share in each (FSDP2)."""
    if not several():
        if shard:
            raise UserError(
                "--shard spreads a model over processes: start it under torchrun, or leave it out"
            )
        return objective
    if not shard:
        return DistributedDataParallel(objective)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in objective.model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(objective, mesh=mesh)
