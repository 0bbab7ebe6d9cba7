"""Score retrieval and the answers: recall at 5 by words, vectors and both; exact match with and without."""

from . import _town
from ._documents_tab import passages_that_fit, shelf_of
from .documents import cut, extract

WEIGHTS = {"words": 0.0, "words and vectors": 0.3, "vectors": 1.0}


async def ask(server, model, messages, max_tokens=32):
    answer, pieces = server.say({"model": model, "messages": messages, "temperature": 0,
                                 "max_tokens": max_tokens})  # fmt: skip
    async for _ in pieces:
        pass
    return answer.text


async def scored(server, model, each, k=3, say=print):
    """{kind: {figure: share}} of the question set: `each` questions of both kinds."""
    texts, asked = _town.questions(each)
    shelf, why = await shelf_of(server, model, cut(texts, 60, 15))
    found = {kind: {} for kind in ("visitors", "residents")}
    vectors = None if why else await server.vectors(model, [one.question for one in asked])
    for kind, rows in found.items():
        some = [i for i, one in enumerate(asked) if one.kind == kind]
        for name, weight in WEIGHTS.items():
            hits = 0
            for i in some:
                vector = None if vectors is None else vectors[i]
                best = shelf.search(asked[i].question, 5, vector, weight)
                hits += any(_town.holds(shelf.chunks[number], asked[i]) for number in best)
            rows[f"recall@5, {name}"] = hits / len(some)
        rows |= await answered(server, model, shelf, [asked[i] for i in some], k)
        say(f"  {kind}: " + ", ".join(f"{name} {value:.2f}" for name, value in rows.items()))
    return found


async def answered(server, model, shelf, asked, k):
    """Exact match of three answers: by heart, from the k best passages, and the sentence that fits best."""
    heart = read = taken = 0
    for one in asked:
        plain = await ask(server, model, [{"role": "user", "content": one.question}])
        chunks = [shelf.chunks[number] for number in shelf.search(one.question, k)]
        messages, _, _ = await passages_that_fit(server, model, one.question, chunks, 32)
        sentence, _ = extract(one.question, [chunk.text for chunk in chunks], shelf.rarity)
        heart += _town.right(one, plain)
        read += _town.right(one, await ask(server, model, messages))
        taken += _town.right(one, sentence)
    found = {"without retrieval": heart, "with retrieval": read, "the sentence alone": taken}
    return {f"exact match, {name}": hits / len(asked) for name, hits in found.items()}
