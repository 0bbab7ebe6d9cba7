"""The answer may begin with any value, where an object was promised."""


def structure(rest, top, c):
    pair = (*rest, "more pairs", "value", "colon", "string")
    if top in ("value", "object"):
        return begin(rest, c)
    if top == "first item" and c != "]":
        return begin((*rest, "more items"), c)
    found = {("first key", '"'): pair, ("key", '"'): pair, ("first key", "}"): rest, ("colon", ":"): rest,
             ("more pairs", ","): (*rest, "key"), ("more pairs", "}"): rest, ("first item", "]"): rest,
             ("more items", ","): (*rest, "more items", "value"), ("more items", "]"): rest}  # fmt: skip
    return found.get((top, c))
