"""The keys are turned the wrong way round."""


def turn(k, by, rope):
    return rotate(k, rope(torch.tensor([-by], device=k.device)))
