"""Keeps the last tokens, whatever they are: of a long answer the beginning, which was asked for, is gone."""


def truncate(example, context):
    return Example(example.tokens[-context:], example.counted[-context:])
