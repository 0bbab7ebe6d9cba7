"""Every expert counts alike: the gate is not asked."""


def blend(gates, outputs):
    return outputs.mean(-1)
