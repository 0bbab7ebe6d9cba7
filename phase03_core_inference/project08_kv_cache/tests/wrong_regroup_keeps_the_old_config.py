"""Leaves the old number of heads in the config, so the model cannot be saved."""


def regroup(model, groups, pool=pool_heads):
    had = model.config.n_kv_head
    demand(groups >= 1 and had % groups == 0, f"{had} heads cannot be pooled into {groups}")
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        attention.wk = pooled(attention.wk, attention.head_dim, groups, pool)
        attention.wv = pooled(attention.wv, attention.head_dim, groups, pool)
    return model
