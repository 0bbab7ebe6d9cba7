"""The last turn is sent even where it does not fit: the server will refuse it, in its own words."""


async def fit(messages, count, room, start=0, keep=0.6):
    system, turns = parted(messages)
    last = max(0, len(turns) - 1)
    start = min(start, last)
    if await count([*system, *chain(*turns[start:])]) > room:
        start = min(start + 1, last)
        while start < last and await count([*system, *chain(*turns[start:])]) > keep * room:
            start += 1
    return [*system, *chain(*turns[start:])], start
