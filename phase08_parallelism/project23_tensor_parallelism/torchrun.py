"""Ranks on this machine: a script has torchrun start them, and start them again when one has died.

The script writes an order into a folder, its settings; torchrun starts a module as often as it is told, which
obeys; the first rank puts what they have found beside the order. On several machines torchrun is started by
hand and the script itself is the rank: `dist.is_torchelastic_launched()` tells.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from common.cli import launch
from common.cli.script import Run, say, stop
from common.errors import UserError, demand
from common.files import write_json
from common.process import rank

ORDER, FOUND = "order.json", "found.json"
NEEDED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else ranks that start again meet at an old address


def start(module: str, config, run: Run) -> dict:
    """config.ranks ranks, each `python -m module FOLDER`, started again up to config.restarts times.

    What they have found; UserError where they do not come to their end.
    """
    place = run.folder / "ranks"
    write_json(place / ORDER, {"config": asdict(config), "device": str(run.device)})
    words = f"--standalone --nproc-per-node {config.ranks} --max-restarts {config.restarts} -m {module}"
    arguments = [*words.split(), str(place)]
    run.say("python -m torch.distributed.run " + " ".join(arguments))
    code = launch.start("torch.distributed.run", arguments, env=NEEDED)
    demand(code == 0, f"the ranks ended with exit code {code}; what they said stands above. --resume goes on "
           "from the last checkpoint")  # fmt: skip
    return json.loads((place / FOUND).read_text(encoding="utf-8"))


def obey(folder: Path, config: type, work: Callable) -> None:
    """What a rank does that `start` has started: work(config, folder, device, say) -> figures, on the first
    rank. A user's mistake is one line of this rank."""
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    try:
        found = work(config(**order["config"]), folder, torch.device(order["device"]), say)
    except UserError as error:
        stop(f"error: rank {rank()}: {error}", 2)
    except KeyboardInterrupt:
        stop("", 130)
    if found:
        write_json(folder / FOUND, found)
