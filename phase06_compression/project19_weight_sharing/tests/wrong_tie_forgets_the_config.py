"""Does not say so in the config: the saved folder is no tied model for anyone."""


def tie(model):
    table, own = model.embed.weight, model.head.weight
    demand(table.shape == own.shape, "a tie is one matrix: give both one width, or factorise after")
    model.head.weight = table
    return model
