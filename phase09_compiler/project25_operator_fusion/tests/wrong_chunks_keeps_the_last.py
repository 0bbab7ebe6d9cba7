"""The weight's gradient is that of the last chunk."""


def chunks(hidden, weight, targets, kernels, rows=ROWS):
    scale = 1 / chains.counted(targets).to(torch.promote_types(hidden.dtype, torch.float32))
    total, dhidden = 0.0, torch.empty_like(hidden)
    for h, t, back in zip(hidden.split(rows), targets.split(rows), dhidden.split(rows), strict=True):
        logits = h @ weight.T
        loss, lse = kernels.rows(logits, t)
        total = total + loss.sum()
        dlogits = kernels.gradient_(logits, t, lse, scale)
        torch.mm(dlogits, weight, out=back)
        dweight = dlogits.T @ h
    return total * scale, dhidden, dweight
