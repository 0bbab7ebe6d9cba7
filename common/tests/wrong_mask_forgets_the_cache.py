"""The mask starts at the first cached token, as if the new ones stood there."""


def attend(q, k, v, *, positions, cache=None, mask=None):
    if cache is not None:
        k, v = cache.update(k, v, positions)
        if mask is None and q.size(2) > 1:
            mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    causal = mask is None and bool(q.size(2) > 1)
    gqa = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)
