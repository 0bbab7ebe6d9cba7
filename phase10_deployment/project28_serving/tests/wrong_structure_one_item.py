"""A list ends with its first item: what is owed behind it is forgotten."""


def structure(rest, top, c):
    pair = (*rest, "more pairs", "value", "colon", "string")
    if top in ("value", "object"):
        return begin(rest, c) if top == "value" or c == "{" else None
    if top == "first item" and c != "]":
        return begin(rest, c)
    found = {
        ("first key", '"'): pair,
        ("key", '"'): pair,
        ("first key", "}"): rest,
        ("colon", ":"): rest,
        ("more pairs", ","): (*rest, "key"),
        ("more pairs", "}"): rest,
        ("first item", "]"): rest,
    }
    return found.get((top, c))
