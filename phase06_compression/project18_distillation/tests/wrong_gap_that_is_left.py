"""The share that is left, not the share that is closed."""


def gap_closed(alone, distilled, teacher):
    return (distilled - teacher) / (alone - teacher)
