"""Measure the claims: what the page adds to the server, beside Gradio's own chat; stopping; retrieval."""

import asyncio
import statistics
import time

import httpx

from common.benchmark import values
from common.cli import chain
from common.cli.bench import bench
from common.cli.paths import runs
from common.errors import demand

from . import _rag, _start
from ._apart import apart
from ._client import Hub, Server
from ._drive import Visitor


async def direct(url, model="tape", max_tokens=4096):
    """The API without a page: (seconds to the first text, to the last)."""
    server = Server(url)
    try:
        answer, pieces = server.say({"model": model, "messages": [{"role": "user", "content": "go"}],
                                     "max_tokens": max_tokens}, every=0)  # fmt: skip
        async for _ in pieces:
            pass
        return answer.first - answer.asked, answer.last - answer.asked
    finally:
        await server.close()


async def through(page, stock=False, **settings):
    """One answer through a page: Heard."""
    async with Visitor(page) as visitor:
        if stock:
            return await visitor.say_stock("go")
        await visitor.load()
        return await visitor.say("go", **settings)


async def crowd(page, chats, stock=False):
    """So many chats at once: seconds until the last is whole."""
    async with _many(page, chats) as visitors:
        for visitor in visitors if not stock else ():
            await visitor.load()
        began = time.perf_counter()
        heard = await asyncio.gather(*[one.say_stock("go") if stock else one.say("go") for one in visitors])
        spent = time.perf_counter() - began
    demand(
        len({one.text for one in heard}) == 1 and heard[0].text, "the chats did not all get the tape's text"
    )
    return spent, heard


class _many:
    """Visitors, one beside the other; a context."""

    def __init__(self, page, count):
        self.visitors = [Visitor(page) for _ in range(count)]

    async def __aenter__(self):
        return [await one.__aenter__() for one in self.visitors]

    async def __aexit__(self, *error):
        for one in self.visitors:
            await one.__aexit__(*error)


def bench_ttft(b, tape, page):
    """First words, in turn by the API and through the page."""
    ours, plain = [], []
    for _ in range(b.pick(smoke=2, quick=12, full=40)):
        plain.append(1e3 * asyncio.run(direct(tape))[0])
        ours.append(1e3 * asyncio.run(through(page)).first)
    added = statistics.median(ours) - statistics.median(plain)
    b.claim("ttft", "The page adds at most 20 ms to the time of the first word", unit="ms",
            better="lower", goal=("<=", 20), measured=values("added by the page", [added]),
            settings={"page, ms": statistics.median(ours), "API, ms": statistics.median(plain)},
            why="a post, Gradio's queue and a stream back lie between browser and server")  # fmt: skip


def bench_rate(b, tape, page, tokens):
    """Tokens a second of one answer at 50 a second."""
    ours, plain, updates = [], [], 0
    for _ in range(b.pick(smoke=1, quick=3, full=8)):
        plain.append(tokens / asyncio.run(direct(tape))[1])
        heard = asyncio.run(through(page))
        ours.append(tokens / heard.updates[-1])
        updates = max(updates, len(heard.updates))
    b.claim("rate", "At 50 tokens a second the page shows at least 0.95 of the API's rate", unit="tok/s",
            better="higher", goal=(">=", 0.95), bound=1.0, measured=values("page", ours, "API", plain),
            settings={"tokens": tokens, "updates of the page": updates})  # fmt: skip


def bench_crowd(b, tape, tokens, chats):
    """Sixteen chats at once, as fast as they come, beside stock ChatInterface."""
    ours, plain, sizes = [], [], {}
    with (
        apart("page", cores=[0], url=tape) as page,
        apart("stock", cores=[0], url=tape, model="tape") as stock,
    ):
        for i in range(b.pick(smoke=1, quick=2, full=6)):
            for kind in (("stock", "page"), ("page", "stock"))[i % 2]:
                is_stock = kind == "stock"
                seconds, heard = asyncio.run(crowd(stock if is_stock else page, chats, is_stock))
                (plain if is_stock else ours).append(chats * tokens / seconds)
                sizes[f"{kind}, updates an answer"] = statistics.fmean(len(one.updates) for one in heard)
                sizes[f"{kind}, bytes an answer"] = statistics.fmean(one.size for one in heard)
    b.claim("crowd", f"With {chats} chats at once the page shows at least 1.5 times the tokens a second of "
            "stock gr.ChatInterface", headline=True, unit="tok/s", better="higher", goal=(">=", 1.5),
            measured=values("page", ours, "ChatInterface", plain), settings={"tokens": tokens, **sizes},
            why="each update costs the same, however many tokens are in it")  # fmt: skip


def bench_stop(b, url, page, model):
    """From the click on stop until the engine runs nothing."""

    async def once():
        async with Visitor(page) as visitor, httpx.AsyncClient(base_url=url) as http:
            await visitor.load()

            async def running():
                return (await http.get("/thirty/engine")).json()["stats"]["running"]

            async def click():
                while not await running():
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.1)
                still = await running()
                began = time.perf_counter()
                await visitor.stop()
                while await running():
                    await asyncio.sleep(0.002)
                return 1e3 * (time.perf_counter() - began) if still else None

            talk = "Tell me a long story about the mill, with everybody in it."
            _, spent = await asyncio.gather(visitor.say(talk, temperature=1.5, max_tokens=400), click())
            return spent

    found = [spent for _ in range(b.pick(smoke=2, quick=10, full=30)) if (spent := asyncio.run(once()))]
    goal = {"unit": "ms", "better": "lower", "goal": ("<=", 200)}
    what = "Stop frees the request within 200 ms, each time"
    if not found:
        return b.not_run("stop", what, why=f"{model} ended each answer before it could be stopped", **goal)
    b.claim("stop", what, measured=values("the slowest", [max(found)]),
            settings={"times": len(found), "median, ms": statistics.median(found)}, **goal)  # fmt: skip


def bench_turns(b, page):
    """What later turns of a conversation find in the prefix cache; it grows over the context, too."""

    async def talk():
        async with Visitor(page) as visitor:
            await visitor.load()
            return [await visitor.say(f"Where does Ilmo live, and who is his friend? Question {i}.",
                                      temperature=0, max_tokens=40)
                    for i in range(b.pick(smoke=3, quick=12, full=24))]  # fmt: skip

    heard = asyncio.run(talk())
    read = [float(one.told.split(" tokens read")[0].split(" ")[-1]) for one in heard]
    hit = sum(one.cached for one in heard[1:]) / sum(read[1:])
    cut = float("oldest turns" in heard[-1].told)
    b.claim("turns", "From the second turn on, at least 0.7 of a prompt's tokens are there already, cuts "
            "included", unit="of the tokens", better="higher", goal=(">=", 0.7),
            measured=values("page", [hit]), settings={"turns": len(heard), "was cut": cut})  # fmt: skip


def bench_documents(b, url):
    """Retrieval and answers on TinyTown's questions."""

    async def score():
        hub = Hub([Server(url)])
        server, model = hub.find((await hub.meet())[0])
        try:
            return await _rag.scored(server, model, b.pick(smoke=4, quick=20, full=100), say=b.say)
        finally:
            await hub.close()

    found = asyncio.run(score())
    for kind, rows in found.items():
        b.claim(f"recall-{kind}", f"Of questions about {kind}, the right passage is among the five best for "
                "at least 0.9", unit="recall@5", better="higher", goal=(">=", 0.9),
                measured=values("words and vectors", [rows["recall@5, words and vectors"]]),
                settings=rows)  # fmt: skip
    visitors = found["visitors"]
    b.claim("answers", "Of questions about strangers, the sentence that fits best answers at least half",
            unit="exact match", better="higher", goal=(">=", 0.5),
            measured=values("the best sentence", [visitors["exact match, the sentence alone"]]),
            settings=visitors, why="a model of this size reads strangers poorly: the sentence itself is the "
            "better answer")  # fmt: skip


def main(b):
    tokens, chats = b.pick(smoke=20, quick=150, full=300), b.pick(smoke=3, quick=16, full=16)
    with apart("tape", cores=[1], tokens=tokens, rate=50) as tape, apart("page", cores=[0], url=tape) as page:
        bench_ttft(b, tape, page)
        bench_rate(b, tape, page, tokens)
    with apart("tape", cores=[1], tokens=tokens, rate=b.pick(smoke=0, quick=200, full=200)) as tape:
        bench_crowd(b, tape, tokens, chats)
    folder, log = chain.find("sft", say=b.say), runs() / b.project.name / "bench" / "server.log"
    arguments = "--model", folder, "--inspect", "--device", b.device.type
    with _start.server(*arguments, log=log) as url, apart("page", url=url) as page:
        bench_turns(b, page)
        bench_documents(b, url)
    base = chain.find("base", say=b.say)  # never taught to end an answer: there is time to stop it
    arguments = "--model", base, "--inspect", "--device", b.device.type
    with _start.server(*arguments, log=log) as url, apart("page", url=url) as page:
        bench_stop(b, url, page, base.name)


if __name__ == "__main__":
    bench(main)
