"""Steps the masters and never hands them out: the model does not learn."""


def update(objective, batch, optimizer, scaler, parameters, masters=None, clip=1.0):
    optimizer.zero_grad()
    loss = objective(batch)
    scaler.scaled(loss).backward()
    if masters is not None:
        masters.collect()
    scaler.unscale(parameters)
    clip_grad_norm_(parameters, clip)
    made = scaler.step(optimizer)
    scaler.update()
    return loss.detach(), made
