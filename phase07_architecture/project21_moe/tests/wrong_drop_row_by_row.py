"""Token by token: the second choice of an early token goes before the first of a later one."""


def drop(experts, room, E):
    asked = F.one_hot(experts.flatten(), E)
    before = ((asked.cumsum(0) - asked) * asked).sum(-1)
    return experts.masked_fill((before >= room).view(experts.shape), E)
