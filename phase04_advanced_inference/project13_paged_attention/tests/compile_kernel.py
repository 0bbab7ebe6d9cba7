"""Take the kernel to machine code for a Hopper GPU where there is none: the compiler needs no device."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SIZES = {"G": 2, "SIZE": 16, "D": 128, "ROWS": 16, "TILE": 64, "UPCAST": False}
TYPES = dict.fromkeys(("q", "k", "v"), "*bf16") | dict.fromkeys(("tables", "positions"), "*i32")
TYPES |= dict.fromkeys(("y", "lse"), "*fp32") | dict.fromkeys(SIZES, "constexpr") | {"scale": "fp32"}


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.cuda.is_available = lambda: True  # the technique asks, when it is imported
    name = "phase04_advanced_inference.project13_paged_attention.triton_kernel"
    kernel = importlib.import_module(name).paged_kernel
    with TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        signature = {parameter.name: TYPES.get(parameter.name, "i32") for parameter in kernel.params}
        whole = {(i,): [["tt.divisibility", 16]] for i, (name, kind) in enumerate(signature.items())
                 if kind.startswith("*") or name in ("block", "head", "qb", "qh", "qt")}  # fmt: skip
        source = ASTSource(kernel, signature, constexprs=SIZES, attrs=whole)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
        assert "mma" in made.asm["ptx"], "it does not use the matrix units"
        assert made.metadata.shared <= 227 * 1024, f"it wants {made.metadata.shared} bytes of shared memory"
        print("paged_kernel")


if __name__ == "__main__":
    main()
