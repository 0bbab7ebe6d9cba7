"""What is shared is saved once, and is shared again after loading.

Naive: `model.state_dict()` has a tensor for every name. Written as it is, a file of an ALBERT with 12 layers
holds its block 12 times; read into a model that was built plainly, the 12 are strangers to each other from
the first update on. So

- `hub.save` writes each tensor once, under its first name (common/hub.py, `own`),
- config.json notes how the model came about ("surgery"), and
- `restore` repeats that on an empty model before the weights are filled in: shapes and sharing, no numbers.

    model = hub.load(folder, restore={"project19_weight_sharing": folders.restore})

A tie needs none of this: config.json has a key for it that every library knows, tie_word_embeddings.
"""

from torch import nn

from common.errors import demand

from . import factorised, layer_sharing, relaxed

TECHNIQUES = {
    "layers": layer_sharing.share,
    "embedding": lambda model, rank: factorised.factorise(model, rank, fill=False),
    "relaxed": lambda model, plan, rank: relaxed.relax(model, plan, rank, fill=False),
}


def restore(model: nn.Module, technique: str, **args) -> nn.Module:
    """Share again as a folder says it was shared; weights are still to be filled in. UserError if unknown."""
    demand(technique in TECHNIQUES, f"the folder was shared by {technique!r}, which is not among "
           f"{', '.join(TECHNIQUES)}: it is from another version of project 19")  # fmt: skip
    return TECHNIQUES[technique](model, **args)
