"""Take the kernels to machine code for a Hopper GPU where there is none: the compiler needs no device."""

import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HALF = ("x", "residual", "weight", "total", "y", "dy", "dtotal", "dx", "logits", "out", "p", "g", "m", "v")
NUMBERS = ("eps", "sign", "lr", "beta1", "beta2", "decay", "fix1", "fix2")
FULL = ("rstd", "dweight", "cos", "sin", "loss", "lse", "scale")
WIDTHS = ("C", "F", "V", "n")  # Triton sees at a launch that they divide by 16
CONSTANTS = {"BLOCK": 4096, "ADD": True, "PER_ROW": False, "N": 12, "TURNED": 8, "HALF": 64}
KERNELS = {
    "triton_norm": ("forward_kernel", "backward_kernel"),
    "triton_rope": ("rotate_kernel",),
    "triton_swiglu": ("forward_kernel", "backward_kernel"),
    "triton_softmax": ("forward_kernel", "backward_kernel"),
    "triton_cross_entropy": ("loss_kernel", "gradient_kernel"),
    "triton_adamw": ("adamw_kernel",),
}


def kind_of(name):
    if name in CONSTANTS:
        return "constexpr"
    if name in NUMBERS:
        return "fp32"
    return "*bf16" if name in HALF else "*fp32" if name in FULL else "*i64" if name == "targets" else "i32"


def build(kernel):
    """The kernel, compiled; pointers and widths divide by 16."""
    signature = {parameter.name: kind_of(parameter.name) for parameter in kernel.params}
    even = [i for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name in WIDTHS]
    whole = {(i,): [["tt.divisibility", 16]] for i in even}
    constants = {name: value for name, value in CONSTANTS.items() if name in signature}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=whole)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.cuda.is_available = lambda: True
    with TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for file, names in KERNELS.items():
            module = importlib.import_module(f"phase09_compiler.project25_operator_fusion.{file}")
            for name in names:
                assert "ld.global.v" in build(getattr(module, name)).asm["ptx"], (
                    f"{file}.{name} loads one by one"
                )
                print(f"{file}.{name}")


if __name__ == "__main__":
    main()
