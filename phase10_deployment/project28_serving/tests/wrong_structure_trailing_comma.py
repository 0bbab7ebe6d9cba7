"""A comma may be the last thing in an object or a list."""


def structure(rest, top, c):
    pair = (*rest, "more pairs", "value", "colon", "string")
    if top in ("value", "object"):
        return begin(rest, c) if top == "value" or c == "{" else None
    if top == "first item" and c != "]":
        return begin((*rest, "more items"), c)
    found = {("first key", '"'): pair, ("key", '"'): pair, ("first key", "}"): rest, ("colon", ":"): rest,
             ("more pairs", ","): (*rest, "first key"), ("more pairs", "}"): rest, ("first item", "]"): rest,
             ("more items", ","): (*rest, "first item"), ("more items", "]"): rest}  # fmt: skip
    return found.get((top, c))
