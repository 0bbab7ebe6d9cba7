"""Left alone, it lets go of nothing: the server goes on computing for nobody."""


async def coalesced(source, every=0.03, stop=None):
    box, news, loop = [], asyncio.Event(), asyncio.get_running_loop()

    async def read():
        async for item in source:
            box.append(item)
            news.set()

    ends = [asyncio.ensure_future(read())] + ([asyncio.ensure_future(stop.wait())] if stop else [])
    for end in ends:
        end.add_done_callback(lambda _: news.set())
    while True:
        await news.wait()
        news.clear()
        over = any(end.done() for end in ends)
        if box:
            some, box[:], due = box[:], [], loop.time() + every
            yield some
            await asyncio.wait(ends, timeout=due - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        if over and not box:
            break
    if ends[0].done():
        ends[0].result()
