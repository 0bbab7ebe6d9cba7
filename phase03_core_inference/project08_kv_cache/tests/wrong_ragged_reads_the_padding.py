"""Reads the first new token off the last column, which is padding in short rows."""


def decode_ragged(model, prompts, n, caches, choose=greedy, step=None):
    device, T, step = model.embed.weight.device, max(map(len, prompts)), model if step is None else step
    check_room(model, min(map(len, prompts)), n)
    check_room(model, T, n)
    tokens = torch.tensor([[*row, *[0] * (T - len(row))] for row in prompts], device=device)
    ends = torch.tensor([[len(row)] for row in prompts], device=device)
    positions = torch.arange(T, device=device).expand(len(prompts), -1)
    with torch.no_grad():
        hidden = model.hidden(tokens, positions=positions, caches=caches)
        last = hidden[:, -1:]
        ids = [choose(model.head(last)[:, -1], 0)[:, None]]
        for i in range(1, n):
            logits = step(ids[-1], positions=ends + i - 1, caches=caches)[:, -1]
            ids.append(choose(logits, i)[:, None])
    return torch.cat(ids, dim=1)
