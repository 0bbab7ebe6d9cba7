"""Every rank warms up as the first one does: the last rank holds p micro-batches too."""


def one_f_one_b(rank, p, m):
    forwards, backwards = ([Action(rank, kind, i) for i in range(m)] for kind in "FB")
    return weave(forwards, backwards, min(m, p - 1))
