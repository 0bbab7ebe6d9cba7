"""The keys are turned the wrong way round."""

import torch

from common.model import rotate


def turn(k, by, rope):
    return rotate(k, rope(torch.tensor([-by], device=k.device)))
