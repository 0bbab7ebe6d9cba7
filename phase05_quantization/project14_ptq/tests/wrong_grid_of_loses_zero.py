"""Reaches from the smallest weight to the largest without 0 between: a row of positive ones has no zero."""


def grid_of(w, bits, group=None, symmetric=True, dtype=torch.float16):
    demand_finite(w)
    most, parts = qmax(bits), groups_of(w, group).to(torch.promote_types(w.dtype, torch.float32))
    low, high = parts.amin(-1), parts.amax(-1)
    reach = torch.maximum(-low, high) / most if symmetric else (high - low) / (2 * most + 1)
    scale = reach.to(dtype)
    scale = torch.where(scale < reach, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    demand(scale.isfinite().all(), f"weights as large as {reach.max() * most:.3g} have no scale in {dtype}")
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if symmetric:
        return Grid(scale, None)
    return Grid(scale, (-most - 1 - (low / scale).round()).clamp(-most - 1, most).to(torch.int8))
