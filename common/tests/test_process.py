"""Two processes over gloo: DDP and FSDP2 train as one process does, save whole weights, resume exactly."""
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common import checkpoint, process
from common.errors import UserError
from common.progress import read_history
from common.training import TrainConfig, train

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(steps=6, warmup=2, learning_rate=0.01, accumulate=2, clip=0.05, log_every=1,
                     save_every=2)

# What each rank runs. The objective's batch is the global one; a rank takes its rows.
CHILD = """
    import os, sys
    from pathlib import Path
    root, file, rank, out = sys.argv[1:]
    sys.path.insert(0, root)
    import importlib.util
    import torch, torch.distributed as dist
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("process_tests", file)
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    dist.init_process_group("gloo", init_method=(Path(out) / "meet").as_uri(), rank=int(rank), world_size=2)
    tests.both_ranks(int(rank), Path(out))
    dist.barrier()  # neither leaves while the other still talks to it
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)     # all is tested; in the interpreter's own end a thread of torch's may abort, seen once
"""


class Objective(nn.Module):
    """float64, so that the sum of two halves is the whole to 1e-12."""

    def __init__(self):
        super().__init__()
        self.embed, self.up = nn.Embedding(16, 8), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight
        self.double()

    def forward(self, batch):
        x, y = batch
        logits = self.head(self.norm(self.embed(x) + self.up(self.embed(x)).relu()))
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def fresh():
    torch.manual_seed(3)
    return Objective()


def rows(i, rank=0, of=1):
    x = torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(i))
    return x[rank::of], (x[rank::of] * 5 + 1) % 16


class Killed(Exception):
    """Stands for the end of both processes."""


def until(batches, i):
    def some(j):
        if j == i:
            raise Killed
        return batches(j)
    return some


def wrap(kind):
    objective = fresh()
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(objective)
    from torch.distributed.fsdp import fully_shard
    return fully_shard(objective)


def both_ranks(rank, out):
    def batches(i):
        return rows(i, rank, 2)
    for kind in ("ddp", "fsdp"):
        def go(name, batches=batches, kind=kind, **options):
            return train(wrap(kind), batches, CONFIG, folder=out / f"{kind}-{name}", say=print, **options)
        history = go("whole")
        with pytest.raises(Killed):
            go("killed", until(batches, 9))                # within step 5, after the checkpoint of step 4
        assert go("killed", resume=True).series("loss") == history.series("loss")
        assert history.train[-1]["tokens"] == 6 * 2 * 24                # of both ranks
        stopped(go, rank)
    refused(out, rank, batches)
    assert process.of_all(rank) == [0, 1] and process.first_of(rank + 5) == 5


def stopped(go, rank):
    """A signal at one rank stops both after the same update."""
    def interrupting(i):
        if i == 4 and rank == 1:
            import signal
            signal.raise_signal(signal.SIGTERM)
        return rows(i, rank, 2)
    with pytest.raises(KeyboardInterrupt):
        go("stopped", interrupting)


def refused(out, rank, batches):
    """Each rank gets the first one's UserError, and a loss that is NaN at one rank stops both."""
    with pytest.raises(UserError, match="already holds a run"):
        train(wrap("ddp"), batches, CONFIG, folder=out / "ddp-whole", say=print)
    poisoned = fresh()
    if rank == 1:
        poisoned.up.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="at step 1 "):
        train(poisoned, batches, CONFIG, folder=out / "nan", say=print)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    child = out / "child.py"
    child.write_text(textwrap.dedent(CHILD))
    ranks = [subprocess.Popen([sys.executable, str(child), str(ROOT), __file__, str(rank), str(out)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for rank in (0, 1)]
    try:
        said = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return out, said


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_as_one(runs, tmp_path, kind):
    out, _ = runs
    alone = fresh()
    history = train(alone, rows, CONFIG, folder=tmp_path, say=lambda text: None)
    state = checkpoint.read(out / f"{kind}-whole" / "last.safetensors")
    assert state["weights"].keys() == alone.state_dict().keys()
    for name, value in alone.state_dict().items():
        assert (value - state["weights"][name]).abs().max() < 1e-10, name
    two = read_history(out / f"{kind}-whole" / "metrics.jsonl")
    assert two.series("loss")[1] == pytest.approx(history.series("loss")[1], abs=1e-10)
    assert two.series("grad_norm")[1] == pytest.approx(history.series("grad_norm")[1], abs=1e-10)
    assert min(two.series("grad_norm")[1]) > CONFIG.clip                # so clipping was put to the test


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resume_to_the_same_bits(runs, kind):
    out, _ = runs
    paths = [out / f"{kind}-{name}" / "last.safetensors" for name in ("whole", "killed")]
    whole, killed = map(checkpoint.read, paths)
    assert whole["step"] == killed["step"] == 6 and len(whole["rng"]) == 2
    assert all(torch.equal(value, killed["weights"][name]) for name, value in whole["weights"].items())
    moments = [run["optimizers"][0]["state"]["up.weight"]["exp_avg"] for run in (whole, killed)]
    assert moments[0].shape == (8, 8) and torch.equal(*moments)


def test_only_the_first_rank_speaks_and_a_signal_at_one_stops_both(runs):
    out, said = runs
    assert "--resume" in said[0] and "step" not in said[1]
    for kind in ("ddp", "fsdp"):
        assert checkpoint.read(out / f"{kind}-stopped" / "last.safetensors")["step"] == 4


def test_another_number_of_processes_is_refused(runs):
    out, _ = runs
    with pytest.raises(UserError, match="made by 2 processes") as error:
        train(fresh(), rows, CONFIG, folder=out / "ddp-killed", resume=True, say=lambda text: None)
    assert "\n" not in str(error.value)


def test_without_a_group_there_is_one_process():
    assert (process.rank(), process.world_size(), process.several()) == (0, 1, False)
    assert process.first_of("x") == "x" and process.of_all("x") == ["x"] and process.on_first(lambda: 3) == 3
    with pytest.raises(UserError):
        process.on_first(lambda: replace(CONFIG, steps=0))


def test_a_group_is_left_however_the_run_ends(monkeypatch):
    """Under torchrun, which says where to meet; a mistake of the user's inside leaves no group behind."""
    cpu = torch.device("cpu")
    with process.group(cpu) as device:
        assert device == cpu and not process.several()
    meet = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**meet, "TORCHELASTIC_RUN_ID": "a test"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="no"), process.group(cpu, patience=5.0) as device:
        assert device == cpu and process.several()
        raise UserError("no")
    assert not process.several()


def test_stop_leaves_threads_alone():
    import threading
    found = []
    def enter():
        with process.Stop() as stop:
            found.append((stop.asked, stop.before))
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(False, {})]
