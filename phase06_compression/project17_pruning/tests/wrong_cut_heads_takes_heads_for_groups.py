"""Keeps one query head for each group: the others of the group are lost."""


def cut_heads(block, keep, wo=None):
    attn = block.attn
    D = attn.head_dim
    at = inputs_of(keep, D)
    attn.wq, attn.wk, attn.wv = part_of(attn.wq, at), part_of(attn.wk, at), part_of(attn.wv, at)
    attn.wo = part_of(attn.wo, columns=at, weight=wo)
