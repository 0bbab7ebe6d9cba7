"""One rank of a training: what torchrun starts, as often as needed. It goes on from the last checkpoint.

`python -m torch.distributed.run … -m phase08_parallelism.project23_tensor_parallelism._rank FOLDER`: in the
folder lies what `train` has written there, the settings; what is found is put beside them.
"""

import statistics
import sys
from pathlib import Path

from common.device import peak_memory, reset_peak, seed_all, synchronize
from common.errors import demand
from common.model import GPT, ModelConfig
from common.process import group, of_all, on_first, rank, world_size

from . import loop, tensor_parallel, torchrun
from .collectives import Processes
from .groups import Ring
from .pages import Rows
from .vocabulary import ParallelCausalLM


def whole(config):
    """The model that the ranks will share: the same weights on every rank, whatever their number."""
    seed_all(config.seed)
    names = ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff", "dropout")
    sizes = {name: getattr(config, name) for name in names}
    return GPT(ModelConfig(vocab_size=256, max_seq_len=config.context, **sizes))


def fit(config, folder, grid, device, say):
    """Train this rank's part, from the last checkpoint on if there is one; (objective, history)."""
    rows, row = grid.data.world, grid.data.rank
    demand(
        config.batch_size % rows == 0,
        f"batch_size {config.batch_size} cannot be shared out over {rows} "
        "data-parallel rows: make it a multiple",
    )
    text = Rows(config, folder, row, rows, device)
    model = tensor_parallel.apply(whole(config), grid.tensor, config.sequence)
    objective = ParallelCausalLM(model).to(device)

    def evaluate():
        return {"val_loss": statistics.fmean(objective(batch).item() for batch in text.judged())}

    run = loop.Loop(objective, text.batch_at, config.train_config, folder, grid, config.seed, config.sequence)
    return objective, loop.train(run, evaluate=evaluate, say=say)


def work(config, folder, device, say):
    """A rank's whole life; on the first one the figures, on the others None."""
    with group(device, config.patience) as device:
        on_first(lambda: folder.mkdir(parents=True, exist_ok=True))  # which has looked into the run's folder
        parts = config.parts or world_size()
        demand(world_size() % parts == 0, f"{world_size()} ranks cannot be laid out in rows of {parts}")
        demand(not (config.ring and parts < world_size()), "the ring joins all ranks: leave --parts out")
        grid = loop.grid(parts)
        if config.ring and world_size() > 1:
            grid = loop.Grid(tensor=Ring(Processes()))
        reset_peak(device)
        objective, history = fit(config, folder, grid, device, say)
        synchronize(device)
        own = sum(p.numel() for p in objective.parameters())
        peaks, held = of_all(peak_memory(device)), of_all(own)
        if rank() > 0:
            return None
        total = sum(p.numel() for p in whole(config).parameters())
        return {
            "parameters": total,
            "share": max(held) / total,
            "ranks": world_size(),
            "parts": parts,
            "tokens": config.steps * config.batch_size * config.context,
            "tokens_per_s": history.speed,
            "peak_memory_bytes": max(peaks),
            "loss": history.train[-1]["loss"],
            "val_loss": history.evals[-1]["val_loss"],
        }


if __name__ != __spec__.name:  # started by torchrun with -m; no script that a user would name
    from .train import Config

    torchrun.obey(Path(sys.argv[1]), Config, work)
