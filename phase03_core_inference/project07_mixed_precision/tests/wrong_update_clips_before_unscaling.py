"""Unscale after clip: gradients 65,536 times too large are clipped to 1, then divided to nothing."""


def update(objective, batch, optimizer, scaler, parameters, masters=None, clip=1.0):
    optimizer.zero_grad()
    loss = objective(batch)
    scaler.scaled(loss).backward()
    if masters is not None:
        masters.collect()
    clip_grad_norm_(parameters, clip)
    scaler.unscale(parameters)
    made = scaler.step(optimizer)
    scaler.update()
    if masters is not None:
        masters.hand_out()
    return loss.detach(), made
