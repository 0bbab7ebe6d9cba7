"""Orthogonalises the momentum itself, without the look ahead."""


class Muon:
    def update(self, p, g, state, group):
        rows, columns = p.shape
        m = state["m"].lerp_(g, 1 - group["momentum"])
        scale = 0.2 * max(rows, columns) ** 0.5 if group["match_adamw"] else max(1, rows / columns) ** 0.5
        p.add_(orthogonalise(m), alpha=-group["lr"] * scale)
