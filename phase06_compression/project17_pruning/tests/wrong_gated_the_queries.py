"""Closes the queries: a head without a query looks everywhere alike, and still speaks."""


def gated(attend, gate):
    def closing(q, k, v, **where):
        return attend(q * gate[:, None, None].to(q.dtype), k, v, **where)

    return closing
