"""Only the winner answers, and the others are lost."""


def blend(gates, outputs):
    best, winner = gates.max(-1, keepdim=True)
    return (best * outputs.gather(-1, winner)).squeeze(-1)
