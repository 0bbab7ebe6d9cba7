"""Keeps the rows that the teacher got right as they were: nothing of it is learned."""


def retold(rows, replies):
    return [row for row, reply in zip(rows, replies, strict=True) if check(row, reply)]
