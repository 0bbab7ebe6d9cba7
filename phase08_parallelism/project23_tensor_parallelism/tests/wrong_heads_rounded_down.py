"""Rounds down where heads do not come out even: some are nobody's."""


def head_shares(n_head, n_kv_head, rank, world):
    queries, keys = n_head // world, max(1, n_kv_head // world)
    first = rank * n_kv_head // world
    return (rank * queries, (rank + 1) * queries), (first, first + keys)
