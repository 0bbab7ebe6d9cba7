"""Believes that every mask is causal."""


def look_at_filled(gm):
    count = 0
    for node in found(gm, "scaled_dot_product_attention"):
        if len(node.args) < 4 or not is_a(node.args[3], kernels.row) or "scale" in node.kwargs:
            continue
        (q, k, v, mask), (_, H, _, D) = node.args[:4], val(node.args[0]).shape
        table, at = look_up(gm, mask.args[0].target), mask.args[1]
        K, size = val(k).shape[1:3]
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        if table.numel() != size * size or causal.numel() == 0:
            continue
        grouped = reshaped(gm, node, q, 1, K, H // K, D)
        y = insert(gm, node, kernels.attend_filled, grouped, k, v, at, val=sized(q, 1, K, H // K, D))
        replace(node, reshaped(gm, node, y, 1, H, 1, D))
        count += 1
    return count
