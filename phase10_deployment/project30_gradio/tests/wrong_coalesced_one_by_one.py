"""Each item is told alone: a page that is updated for every token."""


async def coalesced(source, every=0.03, stop=None):
    try:
        async for item in source:
            yield [item]
            if stop is not None and stop.is_set():
                return
    finally:
        await source.aclose()
