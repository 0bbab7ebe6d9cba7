"""The logarithm of a sigmoid that may be 0: infinite where the model is most wrong."""


def bradley_terry(chosen, rejected):
    return -(chosen - rejected).sigmoid().log()
