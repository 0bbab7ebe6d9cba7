"""Scales by columns over rows instead of rows over columns."""


class Muon:
    def update(self, p, g, state, group):
        rows, columns = p.shape
        m = state["m"].lerp_(g, 1 - group["momentum"])
        scale = 0.2 * max(rows, columns) ** 0.5 if group["match_adamw"] else max(1, columns / rows) ** 0.5
        p.add_(orthogonalise(g.lerp(m, group["momentum"])), alpha=-group["lr"] * scale)
