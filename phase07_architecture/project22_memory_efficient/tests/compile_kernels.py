"""Take the kernels to machine code for a Hopper GPU where there is none: the compiler needs no device."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"reach": "*i32", "ys": "*fp32", "lses": "*fp32", "scale": "fp32"}
TYPES |= dict.fromkeys(("q", "k", "v", "y"), "*bf16")
CONSTANTS = {"G": 4, "D": 128, "ROWS": 16, "BLOCK_S": 64, "UPCAST": False, "SHARES": 64}


def module():
    """The technique file as it is where there is a GPU: it asks torch, when it is imported."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.cuda.is_available = lambda: True
    return importlib.import_module("phase07_architecture.project22_memory_efficient.triton_kernel")


def build(kernel):
    """The kernel, compiled for bfloat16; pointers and strides divide by 16."""
    names = [parameter.name for parameter in kernel.params]
    signature = {name: "constexpr" if name in CONSTANTS else TYPES.get(name, "i32") for name in names}
    even = {"qb", "qh", "qt", "kb", "kh", "ks", "vb", "vh", "vs"}
    whole = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names)
             if signature[name].startswith("*") or name in even}  # fmt: skip
    constants = {name: CONSTANTS[name] for name in names if name in CONSTANTS}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=whole)
    options = {"num_warps": 4, "num_stages": 3}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main():
    kernels = module()
    with TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for name in ("share_kernel", "merge_kernel"):
            made = build(getattr(kernels, name))
            if name == "share_kernel":
                assert "mma" in made.asm["ptx"], f"{name} does not use the matrix units"
                assert "cp.async" in made.asm["ptx"], f"{name} does not load ahead"
            assert made.metadata.shared <= 227 * 1024, f"{name} wants {made.metadata.shared} bytes of it"
            print(name)


if __name__ == "__main__":
    main()
