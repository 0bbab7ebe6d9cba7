"""Begins when the first of what it needs has come, not when all of it has."""


def simulate(orders, cost, latency=0):
    p, stages = len(orders), stages_of(orders)
    ends, free, done, slots = {}, [0] * p, [0] * p, []
    while any(done[rank] < len(order) for rank, order in enumerate(orders)):
        before = len(slots)
        for rank, order in enumerate(orders):
            while done[rank] < len(order) and all(n in ends for n in needs(order[done[rank]], stages)):
                action = order[done[rank]]
                come = [ends[n] + latency * (n.stage % p != rank) for n in needs(action, stages)]
                begin = max(free[rank], min(come, default=0))
                free[rank] = ends[event(action)] = begin + cost(action)
                slots.append(Slot(rank, action, begin, free[rank]))
                done[rank] += 1
        demand(len(slots) > before, "the ranks wait for one another for ever, before 0B0, 1F1")
    return Timeline(sorted(slots, key=lambda slot: (slot.rank, slot.begin, slot.end)), p)
