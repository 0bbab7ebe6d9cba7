"""Takes the largest of all rows: one loud row sets the step of the quiet ones."""


def absmax_rows(x):
    x = x.float()
    scale = (x.abs().amax().clamp(min=1e-30) / 127).expand(len(x), 1)
    return (x / scale).round().to(torch.int8), scale
