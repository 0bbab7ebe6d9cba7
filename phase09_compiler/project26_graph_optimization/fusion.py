"""Passes that know what a decode step is made of: fewer products, fewer trips, nothing written twice.

Each looks for a shape in the graph and puts one of `kernels.py` in its place, or returns 0 where it finds
none: of a model with other norms we leave what we do not know, and it still runs.

Seam: none; graphs. Jia et al. 2019, SOSP (TASO: which rewrites are equal at all); Ivanov et al. 2021,
2007.00072 (data movement is all you need).
"""

import torch
from torch.fx import Node

from common.exercise import exercise

from . import kernels
from .capture import look_up
from .rewrite import (
    constant,
    found,
    insert,
    is_a,
    part,
    replace,
    reshaped,
    single,
    sized,
    val,
)

aten = torch.ops.aten


# ---- products ----


@exercise
def merge_products(gm):
    """Linear layers without bias that read the same x become one, with their weights one below the other.

    Their readers get the `part`s of its output. Returns how many products went. q, k and v are such, and the
    two upper halves of a SwiGLU. The merged weight is a new constant: the model keeps its own.
    """
    groups, count = {}, 0
    for node in found(gm, "linear"):
        plain = len(node.args) == 2 and node.args[1].op == "get_attr"
        if plain:
            groups.setdefault(node.args[0], []).append(node)
    for x, nodes in groups.items():
        if len(nodes) < 2:
            continue
        first = next(node for node in gm.graph.nodes if node in nodes)
        weights = [look_up(gm, node.args[1].target) for node in nodes]
        weight, start = constant(gm, torch.cat(weights)), 0
        shape = [*val(x).shape[:-1], len(weight.meta["val"])]
        merged = insert(gm, first, aten.linear.default, x, weight, val=sized(x, *shape))
        parts = []
        for own in weights:
            parts.append(part(gm, first, merged, len(shape) - 1, start, start + len(own)))
            start += len(own)
        for node, new in zip(nodes, parts, strict=True):
            replace(node, new)
        count += len(nodes) - 1
    return count


def use_vectors(gm):
    """Linear layers of a single row become `product`s of vectors, those with a bias `product_add`s; a single
    embedding `pick`s its row. Sizes around them are put back, which costs nothing (plan.py)."""
    count = 0
    for node in found(gm, "linear"):
        x, weight, *bias = node.args
        if single(x):
            flat, N = reshaped(gm, node, x, val(x).shape[-1]), val(node).shape[-1]
            kernel = kernels.product_add if bias and bias[0] is not None else kernels.product
            more = bias if kernel is kernels.product_add else []
            y = insert(gm, node, kernel, flat, weight, *more, val=sized(node, N))
            replace(node, reshaped(gm, node, y, *val(node).shape))
            count += 1
    for node in found(gm, "embedding"):
        if val(node.args[1]).numel() == 1:
            token = reshaped(gm, node, node.args[1], 1)
            y = insert(gm, node, kernels.pick, node.args[0], token, val=sized(node, 1, val(node).shape[-1]))
            replace(node, reshaped(gm, node, y, *val(node).shape))
            count += 1
    return count


def behind_reshapes(node):
    """The node that a chain of reshapes with one reader each began with."""
    while is_a(node, "reshape") and len(node.users) == 1:
        node = node.args[0]
    return node


@exercise
def fuse_norm(gm):
    """product(rms_norm(x)·g, W), the norm read by nobody else, becomes norm_product(x, W·g): the gain goes
    into the weight's columns, and dividing by the root mean square is a number that scales the product."""
    count = 0
    for node in found(gm, kernels.product):
        norm = behind_reshapes(node.args[0])
        if not (is_a(norm, "rms_norm") and len(norm.users) == 1 and len(norm.args) == 4 and single(norm)):
            continue
        x, _, gain, eps = norm.args
        if not (node.args[1].op == "get_attr" and gain.op == "get_attr"):
            continue
        weight = constant(gm, look_up(gm, node.args[1].target) * look_up(gm, gain.target))
        flat = reshaped(gm, node, x, val(x).shape[-1])
        replace(node, insert(gm, node, kernels.norm_product, flat, weight, eps, val=val(node)))
        count += 1
    return count


def fuse_activation(gm):
    """silu(first half of y) · second half, of a norm_product y that nobody else reads: one `norm_gated`."""
    count = 0
    for node in found(gm, "mul"):
        silu, up = node.args
        if not (is_a(silu, "silu") and is_a(up, "slice") and is_a(silu.args[0], "slice")):
            continue
        gate, y = silu.args[0], up.args[0]
        source, F = behind(y), val(up).shape[-1]
        halves_of_y = gate.args == (y, gate.args[1], 0, F) and up.args[2:] == (F, 2 * F)
        if halves_of_y and len(y.users) == 2 and is_a(source, kernels.norm_product):
            new = insert(gm, node, kernels.norm_gated, *source.args, val=sized(node, F))
            replace(node, reshaped(gm, node, new, *val(node).shape))
            count += 1
    return count


def behind(y):
    """What stands behind one reshape that alone reads it."""
    return y.args[0] if is_a(y, "reshape") and len(y.args[0].users) == 1 else y


@exercise
def fuse_residual(gm):
    """x + product(y, W), the product read by nobody else, becomes product_add(y, W, x): the sum is where the
    product begins to count."""
    count = 0
    for node in found(gm, "add"):
        for x, reshape in (node.args[:2], node.args[1::-1]):
            inner = behind_reshapes(reshape) if is_a(reshape, "reshape") else None
            alone = inner is not None and is_a(inner, kernels.product) and len(inner.users) == 1
            if alone and isinstance(x, Node) and val(x).shape == val(node).shape and not node.kwargs:
                flat = reshaped(gm, node, x, val(node).numel())
                new = insert(gm, node, kernels.product_add, *inner.args, flat, val=val(inner))
                replace(node, reshaped(gm, node, new, *val(node).shape))
                count += 1
                break
    return count
