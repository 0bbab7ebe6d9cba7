"""Makes q, k and v from what the block left, not from what came in."""


def taps(model, tokens, layer=-1):
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, rope = model.embed(tokens, positions), model.rope(positions)
    states = [x]
    for block in model.blocks:
        states.append(block(states[-1], rope=rope, positions=positions))
    asked = model.blocks[layer]
    q, k, v = asked.attn.project(asked.norm_attn(states[1:][layer]), rope)
    return Taps(states[1:], q, k, v, model.norm(states[-1]))
