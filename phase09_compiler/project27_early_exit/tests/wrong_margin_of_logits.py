"""The distance of two logits, which may be any number, and not of two shares."""


def margin(look):
    first, second = look.logits.topk(2, dim=-1).values.unbind(-1)
    return first - second
