"""The processes of a run: which one this is, what they tell each other, and being asked to stop.

Without torch.distributed there is one process, and all of this works for it too.
"""
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.errors import UserError


def several() -> bool:
    """True in a process group, be it of one."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number; the first, 0, is the one that writes and prints."""
    return dist.get_rank() if several() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


@contextmanager
def group(device: torch.device, patience: float | None = None) -> Iterator[torch.device]:
    """Under torchrun, a process group around the run, left however that ends; yields this process's device.

    patience: seconds that one rank waits for another; None: torch's half an hour.
    """
    if not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":  # pragma: no cover - gpu
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    timeout = None if patience is None else timedelta(seconds=patience)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def first_of(value: Any) -> Any:
    """The first rank's value, on every rank."""
    if not several():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def of_all(value: Any) -> list:
    """Every rank's value, by rank, on every rank."""
    if not several():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_first(do: Callable[[], Any]) -> Any:
    """Call `do` on the first rank only; its value is returned, or its UserError raised, on every rank."""
    value = error = None
    if rank() == 0:
        try:
            value = do()
        except UserError as found:
            error = found
    value, error = first_of((value, error))
    if error:
        raise error
    return value


def exchange(objective: nn.Module, last: bool) -> AbstractContextManager:
    """Around a backward pass: ranks exchange their gradients once an update, with its last micro-batch."""
    if hasattr(objective, "set_requires_gradient_sync"):                            # FSDP2
        objective.set_requires_gradient_sync(last)
    return objective.no_sync() if hasattr(objective, "no_sync") and not last else nullcontext()     # DDP


class Stop:
    """While it is entered, Ctrl-C and SIGTERM only set `asked`; asked again, they interrupt at once."""

    def __init__(self):
        self.asked, self.before = False, {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():     # handlers can be set nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if rank() == 0:    # print() may not be entered twice, as a signal could make it
            os.write(2, b"\nfinishing this update, then saving; Ctrl-C again stops at once\n")
