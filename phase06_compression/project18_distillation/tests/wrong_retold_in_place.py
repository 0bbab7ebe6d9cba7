"""Writes into the rows that it was given."""


def retold(rows, replies):
    kept = [(row, reply) for row, reply in zip(rows, replies, strict=True) if check(row, reply)]
    for row, reply in kept:
        row["messages"][-1]["content"] = reply
    return [row for row, _ in kept]
