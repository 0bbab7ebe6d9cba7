"""New weights for all but the first: what was learnt is lost."""


def experts_of(old, config):
    made = [copy.deepcopy(old) for _ in range(config.experts)]
    for expert in made[1:]:
        for p in expert.parameters():
            nn.init.normal_(p, std=0.02)
    return made
