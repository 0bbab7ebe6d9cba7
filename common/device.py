"""Where the tensors live: a device that works, its memory and load, random generators, FLOPs and the peak."""
import ctypes
import os
import platform
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.model import Embedding

KINDS = ("cpu", "cuda", "mps")

# Dense peaks in TFLOP/s from the vendors' data sheets: name, 16-bit, float32 without TF32. First match wins.
PEAKS = (("B200", 2250.0, 75.0), ("H200 NVL", 835.0, 60.0), ("H200", 989.4, 66.9), ("H100 NVL", 835.0, 60.0),
         ("H100 PCIe", 756.0, 51.2), ("H100", 989.4, 66.9), ("A100", 312.0, 19.5), ("A30", 165.0, 10.3),
         ("L40S", 362.0, 91.6), ("L4", 121.0, 30.3), ("V100", 125.0, 15.7), ("T4", 65.0, 8.1),
         ("RTX 4090", 165.2, 82.6), ("RTX 3090", 71.0, 35.6))


# ---- choosing ----

def pick(name: str = "auto") -> torch.device:
    """The device called `name`, tried out first; "auto" is the first of CUDA, MPS and the CPU that works.

    UserError when the one asked for does not work.
    """
    if name != "auto":
        if name.split(":")[0] not in KINDS:
            raise UserError(f"there is no device {name!r}: choose one of auto, {', '.join(KINDS)}")
        if why := probe(name):
            raise UserError(f"the device {name!r} does not work here: {why}; choose another, or auto")
        return torch.device(name)
    for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if there:
            why = probe(kind)
            if not why:
                return torch.device(kind)  # pragma: no cover - gpu
            warnings.warn(f"{kind} is there but does not work ({why}); using the CPU", stacklevel=2)
    return torch.device("cpu")


def probe(name: str) -> str | None:
    """None if a product of two matrices on the device comes out right, else one line that says why not.

    `torch.cuda.is_available()` is also true with a driver too old or a card too new for this build of torch.
    """
    try:
        x = torch.ones(8, 8, device=torch.device(name))
        total = (x @ x).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).strip().split("\n")[0]
    return None if total == 512 else f"a sum that is 512 came out as {total}"


def dtype_for(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units make it the faster one to train with, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)  # pragma: no cover - gpu
    elif device.type == "cpu":
        fast = any(getattr(torch.cpu, check, bool)() for check in ("_is_amx_tile_supported",
                                                                   "_is_avx512_bf16_supported"))
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; a clock read before that says nothing."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()  # pragma: no cover - gpu


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (torch's on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict:
    """The state of every random generator a run may draw from: Python's, NumPy's, torch's, the device's."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest]}
    if device.type in ("cuda", "mps"):
        state["device"] = getattr(torch, device.type).get_rng_state()  # pragma: no cover - gpu
    return state


def set_rng_state(state: Mapping, device: torch.device) -> None:
    """Put the generators back as `rng_state` found them."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type in ("cuda", "mps") and "device" in state:
        getattr(torch, device.type).set_rng_state(state["device"])  # pragma: no cover - gpu


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """What is drawn inside does not show: every generator leaves as it came. (Even an import may draw.)"""
    before = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(before, device)


# ---- memory and load ----

def peak_memory(device: torch.device) -> int:
    """Most bytes held since `reset_peak`: by torch's allocator on CUDA, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)  # pragma: no cover - gpu
    if device.type == "mps":
        # it grows and is not given back: as near to a peak as MPS comes
        return torch.mps.driver_allocated_memory()  # pragma: no cover - gpu
    if sys.platform == "win32":
        return _windows_peak()
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: torch.device) -> bool:
    """Start `peak_memory` anew; False where the system cannot (the peak is then over the whole process)."""
    if device.type == "cuda":  # pragma: no cover - gpu
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")     # 5: reset VmHWM (man 5 proc)
        return device.type == "cpu"
    except OSError:
        return False


def _windows_peak() -> int:  # pragma: no cover - windows
    counters = (ctypes.c_size_t * 9)()    # PROCESS_MEMORY_COUNTERS: two 32-bit numbers, then eight sizes
    process = ctypes.windll.kernel32.GetCurrentProcess()
    size = ctypes.sizeof(counters)
    if not ctypes.windll.psapi.GetProcessMemoryInfo(ctypes.c_void_p(process), counters, size):
        raise ctypes.WinError()
    return counters[1]                    # PeakWorkingSetSize


def utilization(device: torch.device) -> dict:
    """{"percent", "watts", "reason"}: how busy a GPU is and what it draws, by its driver; else the reason."""
    if device.type != "cuda":
        return {"percent": None, "watts": None, "reason": f"no driver to ask on {device.type}"}
    card = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", "-i", card, "--query-gpu=utilization.gpu,power.draw",
               "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"percent": None, "watts": None, "reason": f"nvidia-smi: {error}"}
    return _smi(answer)


def _smi(answer: str) -> dict:
    """One line of nvidia-smi's CSV, `37, 212.50`; a field the card does not have reads `[N/A]`."""
    found, missing = {}, []
    for key, field in zip(("percent", "watts"), answer.strip().split(","), strict=True):
        try:
            found[key] = float(field)
        except ValueError:
            found[key] = None
            missing.append(f"the driver gives no {key}")
    return {**found, "reason": "; ".join(missing) or None}


def machine(env: Mapping[str, str] | None = None) -> dict:
    """What a measurement depends on. `env`: the environment, for its malloc settings; None: not recorded."""
    malloc = env if env is None else {key: value for key, value in sorted(env.items()) if
                                      key.startswith("MALLOC_") or key in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_name(), "cores": _cores(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ram_bytes": _ram(), "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if gpu else None,
        "os": platform.platform(), "python": platform.python_version(), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "malloc": malloc,
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name")]
        return names[0] if names else platform.machine()
    if sys.platform == "darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return asked.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """The cores this process may use, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ram() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ---- FLOPs ----

def matmul_parameters(model: nn.Module) -> int:
    """N: the parameters that multiply every token. An embedding is looked up: it counts if tied to a head."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | Embedding)}
    used = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    lookup = tables - used
    return sum(p.numel() for p in model.parameters() if p.dim() >= 2 and id(p) not in lookup)


def model_flops(n_params: int, n_layer: int, d_attn: int, T: int, *, backward: bool = True,
                causal: bool = False) -> int:
    """FLOPs of a decoder for one token of a sequence of T, without any recomputation.

    Each of N = `n_params` weights costs a multiply and an add: 2N forward. Attention adds QKᵀ and PV: in
    each layer 4·d_attn·T (d_attn = n_head · head_dim), half of it if only the causal half is computed.
    Backward costs twice the forward. In all 6N + 12·n_layer·d_attn·T (PaLM, arXiv:2204.02311, appendix B).
    """
    forward = 2 * n_params + 4 * n_layer * d_attn * T // (2 if causal else 1)
    return 3 * forward if backward else forward


def mfu(flops_per_token: float, tokens_per_s: float, peak: float) -> float:
    """Model FLOPs utilisation, 0 to 1: what the model needs over what the device could do in that time."""
    return flops_per_token * tokens_per_s / peak


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[float, str]:
    """(FLOP/s, where from): the data sheet of a GPU that is known, else the best matrix product measured."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for card, half, single in PEAKS:
            if re.search(rf"\b{card}\b", name) and "Laptop" not in name:
                return (single if dtype == torch.float32 else half) * 1e12, f"data sheet of the {card}"
    return gemm_ceiling(device, dtype), "measured matrix product"


def gemm_ceiling(device: torch.device, dtype: torch.dtype = torch.float32, n: int = 2048,
                 seconds: float = 1.0) -> float:
    """FLOP/s of the fastest (n, n) @ (n, n) seen in `seconds` (at least three are run)."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)
