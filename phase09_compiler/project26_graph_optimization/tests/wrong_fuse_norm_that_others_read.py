"""Fuses a norm that somebody else reads as well, so it is computed twice."""


def fuse_norm(gm):
    count = 0
    for node in found(gm, kernels.product):
        norm = node.args[0].args[0]
        if not (is_a(norm, "rms_norm") and len(norm.args) == 4 and single(norm)):
            continue
        x, _, gain, eps = norm.args
        weight = constant(gm, look_up(gm, node.args[1].target) * look_up(gm, gain.target))
        flat = reshaped(gm, node, x, val(x).shape[-1])
        replace(node, insert(gm, node, kernels.norm_product, flat, weight, eps, val=val(node)))
        count += 1
    return count
