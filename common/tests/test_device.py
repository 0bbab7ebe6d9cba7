"""Devices: a probe that computes, memory that is measured, FLOPs that agree with torch's own counter."""
import json
import os
import random
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import device
from common.errors import UserError
from common.model import GPT
from common.testing import tiny

CPU = torch.device("cpu")


def test_pick_gives_a_device_that_computes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = device.pick()
    assert (torch.ones(2, device=found) + 1).sum().item() == 4
    assert device.pick("cpu") == CPU and device.probe("cpu") is None


@pytest.mark.parametrize("name", ["cuda:99", "cdua", ""])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError) as error:
        device.pick(name)
    assert "\n" not in str(error.value) and repr(name) in str(error.value)


def test_auto_passes_over_a_gpu_that_is_there_and_does_not_work(monkeypatch):
    """An old driver: is_available() is true and the first kernel fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(device, "probe", lambda name: "no kernel image" if name == "cuda" else None)
    with pytest.warns(UserWarning, match="no kernel image"):
        assert device.pick() == CPU
    with pytest.raises(UserError, match="no kernel image"):
        device.pick("cuda")


def test_the_probe_notices_wrong_numbers(monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.full(size, 2.0))
    assert "2048" in device.probe("cpu")


def test_the_dtype_follows_the_matrix_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert device.dtype_for(CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert device.dtype_for(CPU) == torch.float32
    assert device.dtype_for(torch.device("mps")) == torch.float32


GONE_AGAIN = """
import torch
from common import device
cpu = torch.device("cpu")
device.synchronize(cpu)
could, before = device.reset_peak(cpu), device.peak_memory(cpu)
torch.ones(64 * 2**20 // 4).sum()                     # 64 MiB, held and let go
grown = device.peak_memory(cpu) - before
device.reset_peak(cpu)
print(int(could), grown, device.peak_memory(cpu) - before)
"""


def test_peak_memory_sees_what_is_gone_again():
    """In a process of its own, whose allocator gives back what is freed and holds nothing from before."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", GONE_AGAIN], cwd=Path(__file__).parents[2], env=env,
                          capture_output=True, text=True, check=True)
    could, grown, after = map(int, done.stdout.split())
    if could:
        assert 60 * 2**20 < grown < 200 * 2**20 and after < 32 * 2**20
    else:
        assert grown >= 0


def test_peak_memory_without_proc(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(device, "Path", lambda name: tmp_path / "absent" / name.strip("/"))
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=12345))
    unit = 1 if sys.platform == "darwin" else 1024
    assert device.peak_memory(CPU) == 12345 * unit
    assert device.reset_peak(CPU) is False


def test_seeds_reach_every_generator():
    def draw():
        device.seed_all(2**40 + 7)
        return random.random(), np.random.rand(), torch.rand(1).item()
    assert draw() == draw()


@pytest.mark.parametrize("answer, percent, watts, reason", [
    ("37, 212.50\n", 37.0, 212.5, None),
    ("0, [N/A]\n", 0.0, None, "the driver gives no watts"),
    ("[Not Supported], [N/A]", None, None, "the driver gives no percent; the driver gives no watts"),
])
def test_what_nvidia_smi_answers(answer, percent, watts, reason):
    assert device._smi(answer) == {"percent": percent, "watts": watts, "reason": reason}


def test_utilization_says_why_it_has_none(monkeypatch):
    assert "cpu" in device.utilization(CPU)["reason"]
    card = types.SimpleNamespace(uuid="0f1e")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: card)
    def answer(command, **_):
        assert "GPU-0f1e" in command
        return types.SimpleNamespace(stdout="5, 61.2")
    monkeypatch.setattr(subprocess, "run", answer)
    assert device.utilization(torch.device("cuda")) == {"percent": 5.0, "watts": 61.2, "reason": None}
    def absent(*_, **__):
        raise FileNotFoundError("nvidia-smi")
    monkeypatch.setattr(subprocess, "run", absent)
    assert "nvidia-smi" in device.utilization(torch.device("cuda"))["reason"]


def test_machine_is_json_and_records_the_malloc_settings():
    found = device.machine({"MALLOC_ARENA_MAX": "1", "LD_PRELOAD": "/x.so", "HOME": "/home/me"})
    assert json.loads(json.dumps(found)) == found
    assert found["malloc"] == {"LD_PRELOAD": "/x.so", "MALLOC_ARENA_MAX": "1"}
    assert found["cpu"] and found["threads"] == torch.get_num_threads()
    assert 1 <= found["cores"] <= os.cpu_count()
    assert device.machine()["malloc"] is None


class Block(nn.Module):
    def __init__(self, C, d_ff):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.up, self.down, self.norm = nn.Linear(C, d_ff), nn.Linear(d_ff, C), nn.LayerNorm(C)

    def forward(self, x):
        q, k, v = (f(self.norm(x)).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())


@pytest.mark.parametrize("tied", [True, False])
def test_the_models_own_table_is_looked_up(tied):
    """The head multiplies every token, the table none: the same count, whether they are one or two."""
    model = GPT(tiny(tie_embeddings=tied))
    others = sum(p.numel() for name, p in model.blocks.named_parameters() if p.dim() == 2)
    assert device.matmul_parameters(model) == others + model.head.weight.numel()


@pytest.mark.parametrize("tied", [False, True])
def test_flops_agree_with_torchs_counter(tied):
    V, C, T, n_layer = 50, 16, 12, 3
    blocks = [Block(C, 40) for _ in range(n_layer)]
    model = nn.Sequential(nn.Embedding(V, C), *blocks, nn.Linear(C, V, bias=False))
    if tied:
        model[-1].weight = model[0].weight
    n = device.matmul_parameters(model)
    assert n == n_layer * (4 * C * C + 2 * C * 40) + V * C            # the head, no table beside it, no norm
    ids = torch.randint(V, (2, T))
    with FlopCounterMode(display=False) as counter:
        loss = model(ids).sum()
    assert device.model_flops(n, n_layer, C, T, backward=False) * ids.numel() == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert (device.model_flops(n, n_layer, C, T) * ids.numel()) == counter.get_total_flops() * 3 // 2
    causal = device.model_flops(n, n_layer, C, T, causal=True)
    assert device.model_flops(n, n_layer, C, T) - causal == 6 * n_layer * C * T


def test_mfu_of_a_published_run():
    """nanoGPT's notebook counts 875.06 GFLOP in 1024 tokens of GPT-2 124M (12 layers of 768)."""
    n = 12 * (12 * 768**2) + 50257 * 768
    per_token = device.model_flops(n, 12, 768, 1024)
    assert per_token * 1024 / 1e9 == pytest.approx(875.06, rel=1e-3)
    assert device.mfu(per_token, 100_000, 312e12) == pytest.approx(0.2739, rel=1e-3)


def test_the_peak_of_a_gpu_is_that_of_its_data_sheet(monkeypatch):
    half, single = torch.bfloat16, torch.float32
    for name, dtype, teraflops in (("NVIDIA H100 80GB HBM3", half, 989.4), ("NVIDIA H100 PCIe", half, 756.0),
                                   ("NVIDIA L4", half, 121.0), ("NVIDIA L40S", single, 91.6),
                                   ("NVIDIA A100-SXM4-80GB", single, 19.5), ("Tesla T4", half, 65.0)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda which, name=name: name)
        peak, source = device.peak_flops(torch.device("cuda"), dtype)
        assert peak == teraflops * 1e12 and source.startswith("data sheet")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: "NVIDIA L40")        # not an L4
    monkeypatch.setattr(device, "gemm_ceiling", lambda which, dtype: 7.0)
    assert device.peak_flops(torch.device("cuda"), half) == (7.0, "measured matrix product")


def test_the_peak_of_a_cpu_is_measured():
    flops, source = device.peak_flops(CPU)
    assert source == "measured matrix product" and 1e8 < flops < 1e15
