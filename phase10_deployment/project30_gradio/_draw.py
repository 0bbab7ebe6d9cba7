"""HTML for what the page shows. Each function is pure; whatever comes from outside goes through `shown`."""

import base64
import html
import io

import numpy as np

SEEN = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}  # what has no form of its own


def shown(text):
    """Any text as it is, for HTML; half characters and such as have no form are marked."""
    return html.escape(str(text)).replace("\u2028", "␤")


def visible(token):
    """A token whose spaces can be seen."""
    return shown("".join(SEEN.get(c, c if c.isprintable() else "�") for c in token)) or "∅"


def note(text):
    return f'<p class="note" role="status">{shown(text)}</p>'


def trouble(text):
    return f'<p class="trouble" role="alert">{shown(text)}</p>'


# ---- chat ----


def figures(found):
    """A line under an answer: how soon, how fast, what was there already, what was guessed."""
    parts = []
    if found.get("stopped"):
        parts.append("stopped")
    if "ttft" in found:
        parts.append(f"first word after <b>{1e3 * found['ttft']:.0f} ms</b>")
    if "rate" in found:
        parts.append(f"<b>{found['rate']:.0f}</b> tokens/s")
    if found.get("prompt"):
        there = f", <b>{found['cached']}</b> of them were there already" if "cached" in found else ""
        parts.append(f"{found['prompt']} tokens read{there}")
    if "accepted" in found:
        parts.append(f"<b>{found['accepted']:.0%}</b> of the guesses right")
    if found.get("left out"):
        parts.append(f"{found['left out']} oldest turns no longer sent")
    return f'<p class="figures" role="status">{" · ".join(parts)}</p>' if parts else ""


def learner(files):
    """Which files of the learner are at work."""
    if not files:
        return '<span class="chip">the course\'s own code</span>'
    names = ", ".join(shown(name) for name in sorted(files))
    return f'<span class="chip mine" title="{names}">runs on {len(files)} of your files: {names}</span>'


def state(engine):
    """The engine's figures."""
    stats = engine["stats"]
    found = {"running": stats.get("running", 0), "waiting": stats.get("waiting", 0),
             "memory in use": f"{stats.get('used', 0):.0%}"}  # fmt: skip
    if stats.get("asked"):
        found["prompt tokens found"] = f"{stats['found'] / stats['asked']:.0%}"
    if stats.get("proposed"):
        found["guesses right"] = f"{stats['accepted'] / stats['proposed']:.0%}"
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in found.items())
    return f'<dl class="state">{cells}</dl>'


# ---- sampler and tokens ----


def bars(rows, bits, left, kept, note_text=""):
    """rows: (token, share by the model, share as drawn); bits: entropy before and after; left: tokens of
    equal share that would be as undecided; kept: how many have any chance."""
    top = max([max(plain, drawn) for _, plain, drawn in rows], default=1) or 1
    lines = "".join(
        f'<tr><th scope="row"><code>{visible(token)}</code></th>'
        f'<td><i class="bar" style="width:{100 * plain / top:.1f}%"></i>'
        f'<i class="bar drawn" style="width:{100 * drawn / top:.1f}%"></i></td>'
        f"<td>{plain:.1%}</td><td>{drawn:.1%}</td></tr>"
        for token, plain, drawn in rows
    )
    said = (f"<b>{bits[1]:.2f} bits</b> of choice as drawn, {bits[0]:.2f} by the model alone: as undecided "
            f"as <b>{left:.1f}</b> tokens of equal share. {kept} have a chance.")  # fmt: skip
    head = "<thead><tr><th>next</th><th></th><th>model</th><th>drawn</th></tr></thead>"
    table = f'<table class="bars">{head}<tbody>{lines}</tbody></table>'
    return f'<p class="figures" role="status">{said}</p>{table}' + (note(note_text) if note_text else "")


def tokens(strings, ids=None, heat=None, titles=None, current=None):
    """Tokens one behind the other. heat: 0 to 1 for each, how dark it is; without it colours take turns."""
    parts = []
    for i, string in enumerate(strings):
        style = f"--heat:{min(max(heat[i], 0), 1):.3f}" if heat is not None else f"--turn:{i % 5}"
        kind = "heat" if heat is not None else "turn"
        title = shown(titles[i] if titles else f"token {i}" + (f", id {ids[i]}" if ids else ""))
        under = f"<small>{shown(ids[i])}</small>" if ids else ""
        kind += " here" if i == current else ""
        end = "<br>" if string.endswith("\n") else ""
        inside = visible(string) + under
        parts.append(f'<span class="token {kind}" style="{style}" title="{title}">{inside}</span>{end}')
    return f'<div class="tokens">{"".join(parts)}</div>'


# ---- attention ----


def picture(table):
    """A square of numbers from 0 to 1 as a small PNG, a pixel each: a data address. Alpha is the number."""
    from PIL import Image

    pixels = np.zeros((*table.shape, 4), np.uint8)
    pixels[..., :3] = 47, 99, 200
    pixels[..., 3] = np.round(255 * np.sqrt(np.clip(table, 0, 1)))  # the root: small weights are seen, too
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heads(maps, layer, chosen):
    """All heads' maps of a layer, (H, T, T): queries down, keys across."""
    cells = []
    for i, one in enumerate(maps):
        what = f"Head {i} of layer {layer}: who looks at whom"
        image = f'<img alt="{what}" src="{picture(np.array(one))}">'
        kind = "chosen" if i == chosen else ""
        cells.append(f'<figure class="{kind}">{image}<figcaption>head {i}</figcaption></figure>')
    return f'<div class="heads">{"".join(cells)}</div>'


# ---- blocks of memory ----


def blocks(found):
    """The memory: whose each block is, and how full. found: (owner or None, tokens held, of how many)."""
    owners = sorted({owner for owner, _, _ in found if owner is not None})
    place = {owner: i % 8 for i, owner in enumerate(owners)}
    kept = sum(1 for owner, held, _ in found if owner is None and held)
    busy = sum(1 for owner, _, _ in found if owner is not None)
    cells = []
    for i, (owner, held, size) in enumerate(found):
        kind = "kept" if owner is None and held else "free" if owner is None else f"own o{place[owner]}"
        whose = f"request {owner}" if owner is not None else "the prefix cache" if held else "nobody"
        title = shown(f"block {i}: {whose}, {held} of {size} tokens")
        cells.append(f'<i class="{kind}" style="--full:{held / max(size, 1):.2f}" title="{title}"></i>')
    free = len(found) - busy - kept
    said = (f"<b>{busy}</b> blocks belong to {len(owners)} requests, the prefix cache alone keeps "
            f"<b>{kept}</b>, <b>{free}</b> of {len(found)} are free.")  # fmt: skip
    label = f"{busy} blocks in use, {kept} kept, {free} free"
    squares = f'<div class="blocks" role="img" aria-label="{label}">{"".join(cells)}</div>'
    return f'<p class="figures">{said}</p>{squares}'


# ---- documents ----


def passages(rows, marks=()):
    """rows: (number, source, text); marks: {number: a sentence to set off}."""
    parts = []
    for number, source, text in rows:
        body, sentence = shown(text), shown(dict(marks).get(number, ""))
        if sentence and sentence in body:
            body = body.replace(sentence, f"<mark>{sentence}</mark>", 1)
        summary = f"<summary><b>[{number}]</b> {shown(source)}</summary>"
        parts.append(
            f'<details open id="passage-{number}">{summary}<blockquote>{body}</blockquote></details>'
        )
    return f'<div class="passages">{"".join(parts)}</div>'


def traced(rows):
    """An answer, sentence by sentence, each with the number of the passage that says so. rows: (sentence,
    number or None)."""
    parts = []
    for sentence, number in rows:
        mark = '<span class="uncited" title="no passage says so">[?]</span>'
        if number is not None:
            where = f'href="#passage-{number}" aria-label="passage {number}"'
            mark = f'<a class="cite" {where}>[{number}]</a>'
        parts.append(f"<span>{shown(sentence)} {mark}</span>")
    return f'<p class="answer">{" ".join(parts)}</p>'
