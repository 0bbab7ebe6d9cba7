"""Cuts off the end, where the answer is."""


def truncate(example, context):
    return Example(example.tokens[:context], example.counted[:context])
