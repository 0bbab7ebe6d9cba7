"""Take the kernel to machine code for a Hopper GPU where there is none: the compiler needs no device."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {**dict.fromkeys(("keys", "which", "starts", "middles"), "*i32"), "masks": "*i8", "scale": "fp32"}
TYPES |= dict.fromkeys(("D", "UPCAST", "BLOCK_T", "BLOCK_S"), "constexpr")
TYPES |= dict.fromkeys(("q", "k", "v", "y"), "*bf16")


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.cuda.is_available = lambda: True  # the technique file asks when it is imported
    module = importlib.import_module("phase07_architecture.project20_sparse_attention.triton_kernel")
    kernel = module.forward_kernel
    signature = {parameter.name: TYPES.get(parameter.name, "i32") for parameter in kernel.params}
    strides = ("qb", "qh", "qt", "kb", "kh", "ks", "vb", "vh", "vs")
    whole = {(i,): [["tt.divisibility", 16]] for i, (name, kind) in enumerate(signature.items())
             if kind.startswith("*") or name in strides}  # fmt: skip
    constants = {"D": 64, "UPCAST": False, "BLOCK_T": module.BLOCK_T, "BLOCK_S": module.BLOCK_S}
    with TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        made = triton.compile(ASTSource(kernel, signature, constexprs=constants, attrs=whole),
                              target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})  # fmt: skip
    assert "wgmma" in made.asm["ptx"], "it does not use the matrix units"
    assert made.metadata.shared <= 227 * 1024, f"it wants {made.metadata.shared} bytes of shared memory"
    print("forward_kernel")


if __name__ == "__main__":
    main()
