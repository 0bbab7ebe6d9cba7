"""Sees x + W·y, and not W·y + x."""


def fuse_residual(gm):
    count = 0
    for node in found(gm, "add"):
        for x, reshape in ((node.args[0], node.args[1]),):
            inner = reshape.args[0] if is_a(reshape, "reshape") else None
            if is_a(inner, kernels.product) and len(inner.users) == len(reshape.users) == 1:
                flat = reshaped(gm, node, x, val(node).numel())
                new = insert(gm, node, kernels.product_add, *inner.args, flat, val=val(inner))
                replace(node, reshaped(gm, node, new, *val(node).shape))
                count += 1
                break
    return count
