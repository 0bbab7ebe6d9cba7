"""Divides the largest weight by 2 to the bits - 1: it falls onto a code that is not there, and is cut off."""


def grid_of(w, bits, group=None, symmetric=True, dtype=torch.float16):
    demand_finite(w)
    most, parts = qmax(bits), groups_of(w, group).to(torch.promote_types(w.dtype, torch.float32))
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    reach = torch.maximum(-low, high) / (most + 1) if symmetric else (high - low) / (2 * most + 2)
    scale = reach.to(dtype)
    scale = torch.where(scale < reach, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    demand(scale.isfinite().all(), f"weights as large as {reach.max() * most:.3g} have no scale in {dtype}")
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if symmetric:
        return Grid(scale, None)
    return Grid(scale, (-most - 1 - (low / scale).round()).clamp(-most - 1, most).to(torch.int8))
