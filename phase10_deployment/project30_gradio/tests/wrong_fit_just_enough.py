"""It leaves out just enough, anew each time: no two prompts begin alike."""


async def fit(messages, count, room, start=0, keep=0.6):
    system, turns = parted(messages)
    for first in range(max(1, len(turns))):
        kept = [*system, *chain(*turns[first:])]
        size = await count(kept)
        if size <= room:
            return kept, first
    raise UserError(f"this message alone makes {size} tokens, and there is room for {room}")
