"""Take one thing away: the mask on the prompt, the right template, clean data, what the base knew."""

from random import Random

from common import plots
from data import synthetic
from data.minhash import dedupe

from ._lab import Lab
from .sft import Example, encode, plain, plain_prompt, prompt


def masking(lab: Lab) -> dict:
    """The loss on answers alone, and on every token: who learns to answer, and who also learns to ask."""
    fig, ((ax,),) = plots.figure()
    counted = lab.encoded(lab.rows)
    everything = [Example(example.tokens, [True] * len(example.tokens)) for example in counted]
    found = {}
    for name, examples in (("answers count", counted), ("everything counts", everything)):
        model, history = lab.tuned(examples, lambda model: {"val_loss": lab.loss(model)})
        scores = lab.scores(model)
        found |= {f"{name}, {key}": value for key, value in scores.items()}
        found[f"{name}, loss of answers"] = lab.loss(model)
        ax.plot(*history.series("val_loss"), marker="o", label=name)
        lab.run.say(f"  {name:18} answers {lab.loss(model):.3f} nats, knowledge {scores['knowledge']:.0%}, "
                    f"all forms {scores['follows']:.0%}")  # fmt: skip
    ax.set(title="What the loss counts", xlabel="update", ylabel="held-out answers, nats a token")
    plots.legend(ax)
    lab.save(fig, "masking.png")
    return found


def without_line_break(messages, tokenizer):
    return prompt(messages, tokenizer)[: -len(tokenizer.encode("\n"))]


def without_head(messages, tokenizer):
    return encode(messages, tokenizer).tokens


def another_house(messages, tokenizer):
    """As another family of models would have it: names and colons."""
    said = "".join(f"### {turn['role'].title()}:\n{turn['content']}\n\n" for turn in messages)
    return tokenizer.encode(said + "### Assistant:\n")


ASKING = {"as in training": prompt, "no line break at the end": without_line_break,
          "no head of the answer": without_head, "plain text": plain_prompt,
          "another model's template": another_house}  # fmt: skip


def template(lab: Lab) -> dict:
    """One tuned model, asked in five ways: only one of them is the one that it was trained with."""
    model, _ = lab.tuned(lab.encoded(lab.rows))
    found = {name: lab.scores(model, ask)["knowledge"] for name, ask in ASKING.items()}
    for name, value in found.items():
        lab.run.say(f"  {name:26} {value:.0%}")
    fig, ((ax,),) = plots.figure(height=3.4)
    names = list(found)[::-1]
    ax.barh(range(len(names)), [found[name] for name in names], color=plots.COLOURS[0])
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 1.02), xlabel="held-out knowledge", title="The same model, asked in five ways")
    ax.grid(False, axis="y")
    lab.save(fig, "template.png")
    return found


def said(row: dict) -> str:
    return "\n".join(turn["content"] for turn in row["messages"])


def spoiled(rows: list[dict], level: float) -> list[dict]:
    """The same rows with typing errors in their answers."""
    draw = Random(0)
    made = []
    for row in rows:
        *asked, answer = row["messages"]
        answer = {**answer, "content": synthetic.typos(answer["content"], level, draw)}
        made.append({**row, "messages": [*asked, answer]})
    return made


def data(lab: Lab) -> dict:
    """Typing errors, and many copies of few rows: what each costs, and what finding the copies gives back."""
    rows, few = lab.rows, lab.rows[: len(lab.rows) // 8]
    copies = [row for row in few for _ in range(8)]
    kept = dedupe([said(row) for row in copies], threshold=0.9, n=3).kept
    sets = {"clean": rows, "typing errors, 5 %": spoiled(rows, 0.05), "an eighth, 8 copies each": copies,
            "copies found and removed": [copies[i] for i in kept]}  # fmt: skip
    found = {}
    for name, chosen in sets.items():
        model, _ = lab.tuned(lab.encoded(chosen))
        scores = lab.scores(model)
        found |= {f"{name}, {key}": value for key, value in scores.items()}
        found[f"{name}, loss of answers"] = lab.loss(model)
        lab.run.say(f"  {name:26} {len(chosen):6,} rows, answers {lab.loss(model):.3f} nats, "
                    f"knowledge {scores['knowledge']:.0%}, all forms {scores['follows']:.0%}")  # fmt: skip
    return found


def forgetting(lab: Lab) -> dict:
    """How far the base's own text is lost, at three rates, and with pages mixed in."""
    fig, ((left, right),) = plots.figure(1, 2, width=10.5)
    before, examples = lab.perplexity(lab.base), lab.encoded(lab.rows)
    tokens = sum(len(example.tokens) for example in examples)
    pages, found = lab.pages(tokens // 4), {"base, perplexity": before}
    for name, rate, chosen in (("a third of the rate", 1 / 3, examples), ("the usual rate", 1.0, examples),
                               ("three times the rate", 3.0, examples),
                               ("with a fifth of pages", 1.0, examples + pages)):  # fmt: skip
        def look(model):
            return {"val_loss": lab.loss(model), "ppl": lab.perplexity(model)}

        _, history = lab.tuned(chosen, look, learning_rate=rate * lab.config.learning_rate)
        left.plot(*history.series("ppl"), marker="o", label=name)
        right.plot(*history.series("val_loss"), marker="o", label=name)
        found |= {f"{name}, perplexity": history.evals[-1]["ppl"],
                  f"{name}, loss of answers": history.evals[-1]["val_loss"]}  # fmt: skip
        lab.run.say(f"  {name:22} pages {before:.2f} -> {history.evals[-1]['ppl']:.2f}, "
                    f"answers {history.evals[-1]['val_loss']:.3f} nats")  # fmt: skip
    left.set(title="What is forgotten", xlabel="update", ylabel="perplexity of unseen pages", yscale="log")
    right.set(title="What is learned", xlabel="update", ylabel="held-out answers, nats a token")
    plots.legend(left)
    lab.save(fig, "forgetting.png")
    return found


def modes(lab: Lab) -> dict:
    """Plain fine-tuning and instruction tuning on the same rows, each asked as text and as chat."""
    found = {}
    models = {"base": lab.base, "plain": lab.tuned(lab.encoded(lab.rows, plain))[0],
              "instruction": lab.tuned(lab.encoded(lab.rows))[0]}  # fmt: skip
    for name, model in models.items():
        for how, ask in (("as text", plain_prompt), ("as chat", prompt)):
            found[f"{name}, {how}"] = lab.scores(model, ask)["knowledge"]
        found[f"{name}, perplexity"] = lab.perplexity(model)
        text, chat, pages = (found[f"{name}, {what}"] for what in ("as text", "as chat", "perplexity"))
        lab.run.say(f"  {name:12} asked as text {text:4.0%}, as chat {chat:4.0%}; pages {pages:.2f}")
    return found
