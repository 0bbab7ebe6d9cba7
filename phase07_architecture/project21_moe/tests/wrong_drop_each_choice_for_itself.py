"""First and second choices each have the whole room: twice as many as there is."""


def drop(experts, room, E):
    asked = F.one_hot(experts, E)
    before = ((asked.cumsum(0) - asked) * asked).sum(-1)
    return experts.masked_fill(before >= room, E)
