"""It looks at the clock only when an item comes: the last one before a silence waits for the next one."""


async def coalesced(source, every=0.03, stop=None):
    loop, box, due = asyncio.get_running_loop(), [], 0.0
    try:
        async for item in source:
            box.append(item)
            if loop.time() >= due:
                yield box
                box, due = [], loop.time() + every
            if stop is not None and stop.is_set():
                break
        if box:
            yield box
    finally:
        await source.aclose()
