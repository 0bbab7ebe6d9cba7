"""One rank of a training: what torchrun starts, as often as needed. It goes on from the last checkpoint.

`python -m torch.distributed.run … -m phase08_parallelism.project24_pipeline_parallelism._rank FOLDER`: in the
folder lies what `train` has written there, the settings; what is found is put beside them.
"""

import statistics
import sys
from pathlib import Path

from common.device import peak_memory, reset_peak, seed_all, synchronize
from common.errors import demand
from common.model import GPT, ModelConfig
from common.process import group, of_all, on_first, rank, world_size
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase08_parallelism.project23_tensor_parallelism import tensor_parallel, torchrun
from phase08_parallelism.project23_tensor_parallelism.loop import train
from phase08_parallelism.project23_tensor_parallelism.pages import Rows
from phase08_parallelism.project23_tensor_parallelism.vocabulary import ParallelCausalLM

from . import _loop
from .pipeline import Pipeline
from .schedules import forwards_only, schedule
from .simulator import bubble
from .stages import costs_of, cut, partition


def whole(config):
    """The model that the ranks will share: the same weights on every rank, whatever their number."""
    seed_all(config.seed)
    names = ("n_layer", "n_head", "n_kv_head", "d_model", "d_ff")
    sizes = {name: getattr(config, name) for name in names}
    return GPT(ModelConfig(vocab_size=256, max_seq_len=config.context, **sizes))


def pipeline_of(config, grid, device):
    """This rank's stages, of a model that may be in parts."""
    model, p = whole(config), grid.pipe.world
    ranges = partition(costs_of(model), p * config.rounds)  # of the whole: alike on all ranks
    kind = CausalLM
    if grid.tensor.world > 1:
        model, kind = tensor_parallel.apply(model, grid.tensor), ParallelCausalLM
    stages = [stage.to(device) for stage in cut(model, p * config.rounds, ranges)[grid.pipe.rank :: p]]
    return Pipeline(stages, grid.wire, kind(stages[-1]) if stages[-1].last else None)


def fit(config, folder, grid, device, say):
    """Train this rank's stages, from the last checkpoint on if there is one; (its loop, history)."""
    rows, row, p = grid.data.world, grid.data.rank, grid.pipe.world
    demand(
        config.batch_size % (rows * config.micro) == 0,
        f"batch_size {config.batch_size} cannot be cut into {config.micro} micro-batches for each of {rows} "
        "data-parallel rows: make it a multiple",
    )
    text = Rows(config, folder, row, rows, device)
    orders = schedule(config.schedule, p, config.micro, config.rounds)
    looking = forwards_only(p, config.micro, config.rounds)
    objective = _loop.Piped(pipeline_of(config, grid, device))

    def evaluate():
        losses = [objective.pipeline.loss(batch, looking) for batch in text.judged()]
        return {"val_loss": statistics.fmean(grid.pipe.all_reduce(loss).item() for loss in losses)}

    run = _loop.Loop(objective, orders, text.batch_at, config.train_config, folder, grid, config.seed)
    return run, train(run, evaluate=evaluate, say=say)


def work(config, folder, device, say):
    """A rank's whole life; on the first one the figures, on the others None."""
    with group(device, config.patience) as device:
        on_first(lambda: folder.mkdir(parents=True, exist_ok=True))  # which has looked into the run's folder
        axes = config.parts * config.rows
        demand(world_size() % axes == 0, f"{world_size()} ranks are no multiple of parts x rows, {axes}")
        grid = _loop.grid(config.parts, config.rows)
        reset_peak(device)
        loop, history = fit(config, folder, grid, device, say)
        synchronize(device)
        own = sum(p.numel() for p in loop.model.parameters())
        peaks, held, busy = of_all(peak_memory(device)), of_all(own), of_all(loop.busy)
        most = of_all(loop.objective.pipeline.peak)
        if rank() > 0:
            return None
        total = sum(p.numel() for p in whole(config).parameters())
        return {
            "parameters": total,
            "share": max(held) / total,
            "ranks": world_size(),
            "stages": grid.pipe.world * config.rounds,
            "tokens": config.steps * config.batch_size * config.context,
            "tokens_per_s": history.speed,
            "peak_memory_bytes": max(peaks),
            "held": max(most),
            "bubble": 1 - statistics.fmean(busy) / loop.wall if loop.wall else 0.0,
            "bubble_by_formula": bubble(config.schedule, grid.pipe.world, config.micro, config.rounds),
            "loss": history.train[-1]["loss"],
            "val_loss": history.evals[-1]["val_loss"],
        }


if __name__ != __spec__.name:  # started by torchrun with -m; no script that a user would name
    from .train import Config

    torchrun.obey(Path(sys.argv[1]), Config, work)
