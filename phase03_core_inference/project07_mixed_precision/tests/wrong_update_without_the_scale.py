"""Never multiplies the loss, but divides the gradients."""


def update(objective, batch, optimizer, scaler, parameters, masters=None, clip=1.0):
    optimizer.zero_grad()
    loss = objective(batch)
    loss.backward()
    if masters is not None:
        masters.collect()
    scaler.unscale(parameters)
    clip_grad_norm_(parameters, clip)
    made = scaler.step(optimizer)
    scaler.update()
    if masters is not None:
        masters.hand_out()
    return loss.detach(), made
