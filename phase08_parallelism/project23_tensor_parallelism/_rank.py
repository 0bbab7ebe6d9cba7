"""One rank of a training: what torchrun starts, as often as needed. It goes on from the last checkpoint.

`python -m torch.distributed.run … -m phase08_parallelism.project23_tensor_parallelism._rank FOLDER`: in the
folder lies what `train` has written there, the settings; what is found is put beside them.
"""

import json
import statistics
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from common.cli.script import stop
from common.device import peak_memory, reset_peak, seed_all, synchronize
from common.errors import UserError, demand
from common.files import write_json
from common.model import GPT, ModelConfig
from common.process import of_all, on_first, rank, world_size
from data import loader
from data.tinytown import TinyTown

from . import _loop, tensor_parallel
from .collectives import Processes
from .groups import Ring
from .vocabulary import ParallelCausalLM

ORDER, FOUND = "order.json", "found.json"
LEARN, HELD = 1, 2  # streams of TinyTown's pages
JUDGED = 8  # batches of unseen pages


def text(folder, stream, tokens):
    """At least so many bytes of TinyTown's pages as a token file, written by the first rank."""
    path = folder / f"town-{stream}-{tokens}.bin"

    def write():
        left, pages = tokens, []
        for page in TinyTown().pages(stream):
            pages.append(np.frombuffer(page.encode() + b"\n", dtype=np.uint8))
            left -= len(pages[-1])
            if left < 0:
                break
        loader.write(path, pages, vocab_size=256, tokenizer="bytes")

    on_first(lambda: path.exists() or write())
    return loader.read(path)


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
    size = {"batch_size": config.batch_size // rows, "context": config.context}
    learn = text(folder, LEARN, min(4_000_000, config.steps * config.batch_size * config.context) + 1000)
    held = text(folder, HELD, (JUDGED + 1) * config.batch_size * config.context)
    model = tensor_parallel.apply(whole(config), grid.tensor, config.sequence)
    objective = ParallelCausalLM(model).to(device)

    def batch_at(i):
        return tuple(x.to(device) for x in learn.batch(config.seed, i, row, rows, **size))

    def evaluate():
        batches = islice(held.sweep(**size), JUDGED)
        losses = [objective(tuple(x.to(device) for x in batch)).item() for batch in batches]
        return {"val_loss": statistics.fmean(losses)}

    history = _loop.train(
        objective,
        batch_at,
        config.train_config,
        folder,
        grid,
        config.sequence,
        config.seed,
        evaluate=evaluate,
        say=say,
    )
    return objective, history


def work(config, folder, device, say):
    """A rank's whole life; on the first one the figures, on the others None."""
    with _loop.started(device, config.patience) as device:
        on_first(lambda: folder.mkdir(parents=True, exist_ok=True))  # which has looked into the run's folder
        parts = config.parts or world_size()
        demand(world_size() % parts == 0, f"{world_size()} ranks cannot be laid out in rows of {parts}")
        demand(not (config.ring and parts < world_size()), "the ring joins all ranks: leave --parts out")
        grid = _loop.grid(parts)
        if config.ring and world_size() > 1:
            grid = _loop.Grid(tensor=Ring(Processes()))
        reset_peak(device)
        objective, history = fit(config, folder, grid, device, say)
        synchronize(device)
        own = sum(p.numel() for p in objective.parameters())
        peaks, held = of_all(peak_memory(device)), of_all(own)
        if rank() > 0:
            return None
        total = sum(p.numel() for p in whole(config).parameters())
        speeds = [row["tokens_per_s"] for row in history.train][1:] or [history.train[0]["tokens_per_s"]]
        return {
            "parameters": total,
            "share": max(held) / total,
            "ranks": world_size(),
            "parts": parts,
            "tokens": config.steps * config.batch_size * config.context,
            "tokens_per_s": statistics.median(speeds),
            "peak_memory_bytes": max(peaks),
            "loss": history.train[-1]["loss"],
            "val_loss": history.evals[-1]["val_loss"],
        }


def result(folder):
    """What the ranks have found."""
    return json.loads((folder / FOUND).read_text(encoding="utf-8"))


def main(folder):
    """What torchrun calls. A user's mistake is one line of this rank."""
    from .train import Config

    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    try:
        found = work(Config(**order["config"]), folder, torch.device(order["device"]), on_screen)
    except UserError as error:
        stop(f"error: rank {rank()}: {error}", 2)
    except KeyboardInterrupt:
        stop("", 130)
    if found:
        write_json(folder / FOUND, found)


def on_screen(line):
    """The first rank's lines."""
    if rank() == 0:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ != __spec__.name:  # started by torchrun with -m; no script that a user would name
    main(Path(sys.argv[1]))
