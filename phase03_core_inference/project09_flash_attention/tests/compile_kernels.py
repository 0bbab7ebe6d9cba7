"""Take the kernels to machine code for a Hopper GPU where there is none: the compiler needs no device."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"reach": "*i32", "first": "*i32", "clear": "*i32", "lse": "*fp32", "delta": "*fp32", "scale": "fp32"}
TYPES |= dict.fromkeys(("D", "UPCAST", "BLOCK_T", "BLOCK_S"), "constexpr")
TYPES |= dict.fromkeys(("q", "k", "v", "y", "dy", "dq", "dk", "dv"), "*bf16")


def module():
    """The technique file as it is where there is a GPU: it asks torch, when it is imported."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.cuda.is_available = lambda: True
    return importlib.import_module("phase03_core_inference.project09_flash_attention.triton_kernel")


def build(tuner):
    """The kernel, compiled in the first of its configurations; pointers and strides divide by 16."""
    config, parameters = tuner.configs[0], tuner.fn.params
    signature = {parameter.name: TYPES.get(parameter.name, "i32") for parameter in parameters}
    whole = {(i,): [["tt.divisibility", 16]] for i, (name, kind) in enumerate(signature.items())
             if kind.startswith("*") or name.startswith(("q", "k", "v"))}  # fmt: skip
    constants = {"D": 128, "UPCAST": False, **config.kwargs}
    source = ASTSource(tuner.fn, signature, constexprs=constants, attrs=whole)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main():
    kernels = module()
    with TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for name in ("forward_kernel", "back_to_queries", "back_to_keys"):
            made = build(getattr(kernels, name))
            assert "wgmma" in made.asm["ptx"], f"{name} does not use the matrix units"
            assert "cp.async" in made.asm["ptx"], f"{name} does not load ahead"
            shared = made.metadata.shared
            assert shared <= 227 * 1024, f"{name} wants {shared} bytes of shared memory"
            print(name)


if __name__ == "__main__":
    main()
