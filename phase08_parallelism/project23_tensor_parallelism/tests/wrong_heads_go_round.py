"""Deals key/value heads out in turn: queries meet the heads of others."""


def head_shares(n_head, n_kv_head, rank, world):
    demand(n_head % world == 0, f"{n_head} query heads and {world} ranks")
    demand(n_kv_head % world == 0 or world % n_kv_head == 0, f"{n_kv_head} heads and {world} ranks")
    queries, keys = n_head // world, max(1, n_kv_head // world)
    first = rank * keys % n_kv_head
    return (rank * queries, (rank + 1) * queries), (first, first + keys)
