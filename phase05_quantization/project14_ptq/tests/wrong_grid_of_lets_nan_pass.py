"""Looks at nothing: a single NaN makes NaN of a group's step, and of all its weights."""


def grid_of(w, bits, group=None, symmetric=True, dtype=torch.float16):
    most, parts = qmax(bits), groups_of(w, group).to(torch.promote_types(w.dtype, torch.float32))
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    reach = torch.maximum(-low, high) / most if symmetric else (high - low) / (2 * most + 1)
    scale = reach.to(dtype)
    scale = torch.where(scale < reach, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    if symmetric:
        return Grid(scale, None)
    return Grid(scale, (-most - 1 - (low / scale).round()).clamp(-most - 1, most).to(torch.int8))
