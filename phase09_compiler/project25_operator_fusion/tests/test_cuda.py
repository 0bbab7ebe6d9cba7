"""The CUDA kernel: its source compiles for two kinds of GPU, its binding without any."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils import cpp_extension

from common.errors import UserError
from common.testing import close
from phase09_compiler.project25_operator_fusion import cuda_ops

BINDING, KERNEL = cuda_ops.SOURCES


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc: the CUDA toolkit is not installed")
@pytest.mark.parametrize("kind", ["sm_80", "sm_90"])
def test_source_compiles(kind, tmp_path):
    """Machine code for an A100 and an H100, three types each; no warning."""
    out = tmp_path / "kernel.o"
    done = subprocess.run(
        [*cuda_ops.COMMAND, f"-arch={kind}", KERNEL, "-o", out], capture_output=True, text=True
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr[-2000:]
    assert out.read_bytes().startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(cpp_extension.get_cxx_compiler()), reason="no C++ compiler")
def test_binding_compiles():
    """Its calls fit to torch's headers; it needs none of CUDA."""
    where = [f"-I{path}" for path in cpp_extension.include_paths()]
    command = [cpp_extension.get_cxx_compiler(), "-std=c++20", "-fsyntax-only", *where, str(BINDING)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_binding_and_kernel_agree():
    """The function that the binding declares is the one that the kernel's file defines, word for word."""

    def declared(path):
        text = " ".join(Path(path).read_text("utf-8").split())
        return text[text.index("int add_rms_norm_cuda(") :].partition(")")[0]

    assert declared(BINDING) == declared(KERNEL)


def test_without_a_gpu(monkeypatch):
    """One line says why it cannot be built."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        cuda_ops.add_rms_norm(torch.zeros(1, 8), torch.zeros(1, 8), torch.ones(8), 1e-5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="built by nvcc, which is not here"):
        cuda_ops.build()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matches_rms_norm_on_a_gpu(dtype):  # pragma: no cover - gpu
    x, residual, weight = (
        torch.randn(s, device="cuda", dtype=dtype) for s in ((300, 4096), (300, 4096), (4096,))
    )
    normed, total = cuda_ops.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    close(normed, F.rms_norm(total.double(), (4096,), weight.double(), 1e-5), "normed")
