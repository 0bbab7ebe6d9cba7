"""A list may be closed by a brace, and an object by a bracket."""


def structure(rest, top, c):
    pair = (*rest, "more pairs", "value", "colon", "string")
    if top in ("value", "object"):
        return begin(rest, c) if top == "value" or c == "{" else None
    if c in "]}" and top in ("first key", "more pairs", "first item", "more items"):
        return rest
    if top == "first item":
        return begin((*rest, "more items"), c)
    found = {
        ("first key", '"'): pair,
        ("key", '"'): pair,
        ("colon", ":"): rest,
        ("more pairs", ","): (*rest, "key"),
        ("more items", ","): (*rest, "more items", "value"),
    }
    return found.get((top, c))
