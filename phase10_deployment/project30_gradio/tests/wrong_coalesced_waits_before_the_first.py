"""It collects for a while before it says anything: the first word comes late."""


async def coalesced(source, every=0.03, stop=None):
    loop, box, began = asyncio.get_running_loop(), [], None
    try:
        async for item in source:
            began = began or loop.time()
            box.append(item)
            if loop.time() - began >= every or (stop is not None and stop.is_set()):
                yield box
                box, began = [], None
        if box:
            yield box
    finally:
        await source.aclose()
