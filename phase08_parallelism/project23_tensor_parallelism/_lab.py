"""What experiments and measurements share: a small model on TinyTown's bytes, trained on virtual ranks, with
a mistake or without; and the updates that are timed on real ones."""

import copy

import torch
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    loss_parallel,
    parallelize_module,
)

from common.cli import explore
from common.model import GPT, ModelConfig
from phase01_foundation.project03_pretrain.objectives import CausalLM

from . import tensor_parallel
from .collectives import Processes
from .groups import Library, Ring
from .pages import batches
from .threads import ranks
from .vocabulary import ParallelCausalLM

# ---- small trainings on virtual ranks ----


def plain(model):
    """No mistake."""


def without_f(model):
    """The input is not copied through f: nobody sums what flows back."""
    model.head.region.enter = lambda x: x


def without_g(model):
    """The products are not summed: each rank goes on with its own."""
    model.head.region.leave = lambda x: x


class Lab(explore.Album):
    """A small model, the same weights and batches for every training."""

    def __init__(self, config, run):
        super().__init__(config, run)
        torch.manual_seed(config.seed)
        self.base = GPT(ModelConfig(vocab_size=256, n_layer=2, n_head=4, n_kv_head=2, d_model=config.d_model,
                                    d_ff=2 * config.d_model, max_seq_len=config.context))  # fmt: skip
        self.rows = batches(config.steps, config.batch_size, config.context)

    def trained(self, world, dress=plain, *, sequence=False, finish=True):
        """(loss of each update, how far copies of one parameter lie apart after it) on virtual ranks."""
        return ranks(world, self.rank, dress, sequence, finish)[0]

    def rank(self, wire, dress, sequence, finish):
        group = Ring(wire)
        model = tensor_parallel.apply(copy.deepcopy(self.base), group, sequence)
        dress(model)
        objective, losses, distances = ParallelCausalLM(model), [], []
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.config.learning_rate)
        for row in self.rows:
            loss = objective((row[:, :-1], row[:, 1:]))
            optimizer.zero_grad()
            loss.backward()
            if finish:
                tensor_parallel.finish_gradients(model, group, sequence)
            optimizer.step()
            losses.append(loss.item())
            distances.append(apart(model, group))
        return losses, distances


@torch.no_grad()
def apart(model, group):
    """The largest difference between two copies, on two ranks, of one number of the model."""
    shares, most = tensor_parallel.cuts(model), 0.0
    for name, p in model.named_parameters():
        copies = group.all_gather(p.detach()[None], 0).unflatten(0, (shares[name].parts, -1))
        most = max(most, (copies - copies[:, :1]).abs().max().item())
    return most


# ---- updates to be timed, on real ranks ----


def by_dtensor(model, world):
    """The same cuts by torch's parallelize_module; the head's logits stay in parts."""
    plan = {f"blocks.*.{name}": ColwiseParallel() for name in ("attn.wq", "attn.wk", "attn.wv", "ffn.w_gate",
                                                               "ffn.w_up")}  # fmt: skip
    plan |= {f"blocks.*.{name}": RowwiseParallel() for name in ("attn.wo", "ffn.w_down")}
    plan["head"] = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    return parallelize_module(model, init_device_mesh("cpu", (world,)), plan)


class Update:
    """Forward, backward and AdamW; calling it gives the loss that the first update was made from."""

    def __init__(self, objective, batch):
        self.objective, self.batch, self.first = objective, batch, None
        self.optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)

    def loss(self):
        return self.objective(self.batch)

    def __call__(self):
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss.item() if self.first is None else self.first
        return self.first


class DTensorUpdate(Update):
    """The same through a model of DTensors, its loss in parts too."""

    def __call__(self):
        inputs, targets = self.batch
        with loss_parallel():
            logits = self.objective.model(inputs)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.first = loss.full_tensor().item() if self.first is None else self.first
        return self.first


def updates(rank, world, sizes, rows):
    """{side: an update of this rank}: whole on the first rank alone, in parts by us and by DTensor."""

    def model():
        torch.manual_seed(0)
        return GPT(ModelConfig(**sizes))

    tokens = torch.randint(sizes["vocab_size"], (rows, sizes["max_seq_len"] + 1),
                           generator=torch.Generator().manual_seed(1))  # fmt: skip
    batch = tokens[:, :-1], tokens[:, 1:]
    alone = Update(CausalLM(model()), batch) if rank == 0 else int
    ours = Update(ParallelCausalLM(tensor_parallel.apply(model(), Library())), batch)
    sequence = Update(ParallelCausalLM(tensor_parallel.apply(model(), Library(), True)), batch)
    theirs = DTensorUpdate(CausalLM(by_dtensor(model(), world)), batch)

    def two_threads():
        torch.set_num_threads(2)
        found = alone()
        torch.set_num_threads(1)
        return found

    return {"one thread": alone, "two threads": two_threads if rank == 0 else int, "two ranks": ours,
            "two ranks, sequence": sequence, "two ranks, DTensor": theirs}  # fmt: skip


def sums(rank, world, sizes, repeats):
    """{name: so many all-reduces of n numbers, ours or torch's}, and sends for the wire's own rate."""
    ring, library, wire = Ring(Processes()), Library(), Processes()
    tasks = {}
    for n in sizes:
        x = torch.full((n,), rank + 1.0)

        def repeat(do, n=n):
            def task():
                for _ in range(repeats(n)):
                    found = do()
                return found

            return task

        def swap(x=x, n=n):
            came = torch.empty(n)
            wire.exchange(x, (rank + 1) % world, came, (rank - 1) % world)
            return x

        tasks[f"ours {n}"] = repeat(lambda x=x: ring.all_reduce(x)[:8])
        tasks[f"dist {n}"] = repeat(lambda x=x: library.all_reduce(x)[:8])
        tasks[f"swap {n}"] = repeat(swap)
    return tasks


def repeats(n):
    """All-reduces in a run: enough for milliseconds."""
    return max(1, min(20, 2**19 // n))
