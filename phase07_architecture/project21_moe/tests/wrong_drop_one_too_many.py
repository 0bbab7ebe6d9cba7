"""One choice fewer than there is room for."""


def drop(experts, room, E):
    N, k = experts.shape
    asked = F.one_hot(experts.T.flatten(), E)
    before = (asked.cumsum(0) * asked).sum(-1)
    return experts.masked_fill((before >= room).view(k, N).T, E)
