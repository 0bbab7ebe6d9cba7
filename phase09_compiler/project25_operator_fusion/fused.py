"""Fused operations in the model: `fuse(model, kernels)` swaps its parts, and nothing else changes.

Before: some forty kernels to a block for one token of decoding. New here: a third of that, and with these:

- products of one input become one product, their weights side by side (q beside k beside v, gate beside up);
- the residual sum and the norm that follows it are one visit to memory;
- RoPE turns q and k together; SwiGLU is one loop, and for a single token part of its product.

Seam: the surgery. A module changes its class and keeps its parameters under their names, so checkpoints,
optimisers and `hub.save` do not notice. Caches, attends and masks are those of the model."""

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import Attention, Block, RMSNorm, SwiGLU, swap


@exercise
def side_by_side(weights):
    """Weights (N1, C), (N2, C), … -> one (N1 + N2 + …, C), of which each of them becomes a part.

    No number is held twice afterwards: the parameters' data are views of the result, in their order.
    """
    whole = torch.cat([weight.detach() for weight in weights])
    for weight, part in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
        weight.data = part
    return whole


class Joined:
    """For a module with several products of one input."""

    def joined(self, *linears):
        """Their weights as one matrix, (N1 + N2 + …, C), through which gradients reach each, if asked for."""
        weights = [linear.weight for linear in linears]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.cat(weights)
        if [weight.data_ptr() for weight in weights] != self.places:  # at first, or after a move or a copy
            with torch.inference_mode(False):  # else nothing of it could ever be trained
                self.whole = side_by_side(weights)
            self.places = [weight.data_ptr() for weight in weights]
        return self.whole


def times(kernels, x, weight):
    """x (…, C) times weight (N, C): by our own loop for one token without gradients, else by torch."""
    alone = kernels.product and x.numel() == x.size(-1) and not torch.is_grad_enabled()
    return kernels.product(x, weight) if alone else F.linear(x, weight)


class FusedLinear(nn.Linear):
    stands_for = nn.Linear  # it computes the same, so a model with it can be saved

    def forward(self, x):
        return times(self.kernels, x, self.weight)


class FusedNorm(RMSNorm):
    stands_for = RMSNorm

    def forward(self, x):
        return self.kernels.rms_norm(x, self.weight, self.eps)


class FusedAttention(Joined, Attention):
    stands_for = Attention

    def project(self, x, rope):
        """As `Attention.project`: x (B, T, C) -> q (B, H, T, D), k and v (B, K, T, D)."""
        qkv, D = times(self.kernels, x, self.joined(self.wq, self.wk, self.wv)), self.head_dim
        H, K = self.wq.out_features // D, self.wk.out_features // D
        if rope is not None:
            qkv = self.kernels.rotate(qkv, rope, H + K)  # (B, T, (H + 2K) D)
        return qkv.unflatten(-1, (-1, D)).transpose(1, 2).split((H, K, K), 1)


class FusedSwiGLU(Joined, SwiGLU):
    stands_for = SwiGLU

    def forward(self, x):
        if self.kernels.gated and x.numel() == x.size(-1) and not torch.is_grad_enabled():
            return self.w_down(self.kernels.gated(x, self.w_gate.weight, self.w_up.weight))
        return self.w_down(self.kernels.swiglu(F.linear(x, self.joined(self.w_gate, self.w_up))))


class FusedBlock(Block):
    stands_for = Block

    @exercise
    def forward(self, x, **where):
        """As `Block.forward`: x (B, T, C) -> (B, T, C); the first sum and the norm after it in one visit."""
        y = self.dropout(self.attn(self.norm_attn(x), **where))
        y, x = self.kernels.add_rms_norm(y, x, self.norm_ffn.weight, self.norm_ffn.eps)
        return x + self.dropout(self.ffn(y))


PARTS = {Block: FusedBlock, RMSNorm: FusedNorm, Attention: FusedAttention, SwiGLU: FusedSwiGLU,
         nn.Linear: FusedLinear}  # fmt: skip
PRODUCTS = {Attention: lambda m: (m.wq, m.wk, m.wv), SwiGLU: lambda m: (m.w_gate, m.w_up),
            nn.Linear: lambda m: (m,)}  # fmt: skip


def fuse(model, kernels, parts=tuple(PARTS)):
    """The model with these parts fused, in place; kernels as `cpp_ops.kernels()` gives them.

    UserError where a part is not there (another dress, or fused already), products have a bias, or the
    kernels are for another device.
    """
    device = next(model.parameters()).device.type
    demand(kernels.device in ("", device), f"kernels for {kernels.device}, and a model on {device}: move it")

    for module in model.modules():
        for kind in set(PRODUCTS) & set(parts) & {type(module)}:
            for product in PRODUCTS[kind](module):
                plain = type(product) in (nn.Linear, FusedLinear) and product.bias is None
                why = f"a product of {kind.__name__} is no plain Linear, or has a bias"
                demand(plain, f"{why}: merge what was added first, or leave {kind.__name__} out of parts")

    def become(old):
        old.kernels, old.whole, old.places = kernels, None, []
        old.__class__ = PARTS[type(old)]
        return old

    for kind in parts:
        swap(model, kind, become)
    return model
