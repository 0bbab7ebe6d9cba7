"""Refuses more ranks than key/value heads."""


def head_shares(n_head, n_kv_head, rank, world):
    demand(n_head % world == 0 and n_kv_head % world == 0, f"{n_kv_head} heads and {world} ranks")
    queries, keys = n_head // world, n_kv_head // world
    return (rank * queries, (rank + 1) * queries), (rank * keys, (rank + 1) * keys)
