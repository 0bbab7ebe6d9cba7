"""Copies the blocks: as deep, and as large as a model of that depth."""


def repeat(model, times):
    model.blocks = nn.ModuleList(copy.deepcopy(block) for block in model.blocks for _ in range(times))
    model.config = replace(model.config, n_layer=len(model.blocks))
    return model
