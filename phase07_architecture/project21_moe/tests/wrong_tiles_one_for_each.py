"""One tile for each expert, however many rows it has."""


def tiles(ends, R, block):
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    rest = torch.full((triton.cdiv(R, block),), R, device=ends.device)
    owner = torch.arange(len(ends) + len(rest), device=ends.device).clamp(max=len(ends))
    return owner.to(torch.int32), torch.cat((starts, rest)).to(torch.int32)
