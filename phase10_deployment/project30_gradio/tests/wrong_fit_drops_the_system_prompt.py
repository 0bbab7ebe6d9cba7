"""The oldest message goes first, whatever it is: the system prompt is the oldest."""


async def fit(messages, count, room, start=0, keep=0.6):
    system, turns = parted(messages)
    parts, last = [*system, *chain(*turns)], max(0, len(turns) - 1)
    if await count(parts) <= room:
        return parts, 0
    start = min(max(start, 1), last)
    while start < last and await count([*chain(*turns[start:])]) > keep * room:
        start += 1
    if (least := await count([*chain(*turns[start:])])) > room:
        raise UserError(f"this message alone makes {least} tokens, and there is room for {room}")
    return [*chain(*turns[start:])], start
