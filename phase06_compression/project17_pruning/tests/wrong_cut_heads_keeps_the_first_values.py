"""Cuts keys where it was asked, and values from the front."""


def cut_heads(block, keep, wo=None):
    attn = block.attn
    D, groups = attn.head_dim, attn.wk.out_features // attn.head_dim
    keys, queries = inputs_of(keep, D), inputs_of(keep, attn.wq.out_features // groups)
    attn.wv = part_of(attn.wv, torch.arange(len(keys)))
    attn.wq, attn.wk = part_of(attn.wq, queries), part_of(attn.wk, keys)
    attn.wo = part_of(attn.wo, columns=queries, weight=wo)
