"""A hinge: nothing is learned once the scores differ by one."""


def bradley_terry(chosen, rejected):
    return (1 - (chosen - rejected)).clamp(min=0)
