"""Ties the memory and not the Parameter: two that look into one place, each moved by its own moments."""


def tie(model):
    table, own = model.embed.weight, model.head.weight
    demand(table.shape == own.shape, "a tie is one matrix: give both one width, or factorise after")
    model.head.weight.data = table.data
    model.config = replace(model.config, tie_embeddings=True)
    return model
