"""Fuses a product that somebody else reads as well, so it is computed twice."""


def fuse_residual(gm):
    count = 0
    for node in found(gm, "add"):
        for x, reshape in (node.args[:2], node.args[1::-1]):
            inner = reshape.args[0] if is_a(reshape, "reshape") else None
            if is_a(inner, kernels.product):
                flat = reshaped(gm, node, x, val(node).numel())
                new = insert(gm, node, kernels.product_add, *inner.args, flat, val=val(inner))
                replace(node, reshaped(gm, node, new, *val(node).shape))
                count += 1
                break
    return count
