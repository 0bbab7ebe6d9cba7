"""Who says the largest number wins, and not whom the gate prefers."""


def pick(gates, outputs):
    best, winner = outputs.max(-1, keepdim=True)
    return (best * gates.gather(-1, winner)).squeeze(-1)
