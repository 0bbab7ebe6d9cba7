"""A change in place gives no new tensor, and so it seems to cost nothing."""


def moved(inputs, outputs, written):
    places = {x.untyped_storage().data_ptr() for x in inputs}
    new = [y for y in outputs if y.untyped_storage().data_ptr() not in places]
    return sum(size(x) for x in [*inputs, *new]) if new else 0
