"""Makes the new modules and leaves the old ones in their places."""


def swap(model, kind, make, where=lambda name: True):
    found = {n: m for n, m in model.named_modules(remove_duplicate=False) if type(m) is kind and where(n)}
    demand(found, f"swap found no {kind.__name__}: already replaced, sharded, or filtered out by where")
    for old in dict.fromkeys(found.values()):
        make(old)
    return model
