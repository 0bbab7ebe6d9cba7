"""A conversation that has grown too long: which turns still go to the model, in tokens, not in characters.

Came before: send all of it, until the server refuses. Or count characters and divide by four (`by_guess`),
which is right for English, and wrong by far for code, Greek, or a tokenizer of your own. New here: count what
will really be sent, template and all, and leave out whole turns from the oldest on. The system prompt stays.

One thing is easily missed. Leave out *just enough*, and the next turn has to leave out one more: from then on
each prompt begins with another turn, and the prefix cache (project 10) finds nothing behind the system
prompt, turn after turn, for ever. So when it has to cut, `fit` cuts deeper than it must, and then keeps where
it begins for as long as that fits: most turns find most of their prompt there.

Seam: none.
"""

from itertools import chain

from common.errors import UserError
from common.exercise import exercise


def by_guess(messages, room, characters=4):
    """The naive way: drop the oldest messages until there are at most `characters` for each token."""
    kept = list(messages)
    while len(kept) > 1 and sum(len(one["content"]) for one in kept) > characters * room:
        del kept[0]  # the system prompt first of all
    return kept


def parted(messages):
    """(system messages, turns): a turn is what a user says and all that follows until a user speaks again."""
    system = [one for one in messages if one["role"] == "system"]
    turns = []
    for one in messages:
        if one["role"] == "user" or (one["role"] != "system" and not turns):
            turns.append([])
        if one["role"] != "system":
            turns[-1].append(one)
    return system, turns


@exercise
async def fit(messages, count, room, start=0, keep=0.6):
    """(messages to send, start): the system messages, then the turns from number `start` on.

    count: a coroutine function, how many tokens a list of messages makes; more turns never make fewer.
    It may cost a request, so it is asked seldom: about log2 of the turns. room: tokens there are. start: the
    turn that the last prompt began with; as long as that fits it stays. Where it does not, the new start is
    the lowest one with at most keep x room tokens. The last turn always stays: with at most room tokens it
    is sent even if it has more than keep x room; UserError where it has more than room.
    """
    system, turns = parted(messages)

    async def size(first):
        return await count([*system, *chain(*turns[first:])])

    last = max(0, len(turns) - 1)
    start = min(start, last)
    if await size(start) > room:
        low, high = min(start + 1, last), last  # the answer lies in low to high
        while low < high:
            middle = (low + high) // 2
            if await size(middle) <= keep * room:
                high = middle
            else:
                low = middle + 1
        start = low
        if start == last and (least := await size(last)) > room:
            raise UserError(f"this message alone makes {least} tokens with its surroundings, and there is "
                            f"room for {room}: shorten it, or ask for a shorter answer")  # fmt: skip
    return [*system, *chain(*turns[start:])], start
