"""From a text to batches of numbers, and from a model back to text; and the loss over a whole split."""

import torch

from common.errors import UserError

from . import gpt


class Characters:
    """The vocabulary: one number for each different character of a text, in sorted order."""

    def __init__(self, text):
        self.symbols = sorted(set(text))
        self.number = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self):
        return len(self.symbols)

    def encode(self, text):
        """The characters' numbers. A character that the vocabulary lacks is a UserError."""
        if strange := "".join(sorted(set(text) - set(self.symbols))):
            known = "".join(self.symbols)
            raise UserError(f"the model has never seen {strange!r}; leave it out: the model knows only the "
                            f"{len(self)} characters of its training text, {known!r}")
        return [self.number[symbol] for symbol in text]

    def decode(self, ids):
        """The text that these numbers stand for."""
        return "".join(self.symbols[i] for i in ids)


def split(text, context):
    """(characters, train, val): the vocabulary of the text, its first 90 % and its last 10 % as numbers.

    UserError where there is nothing to learn: too short for one context in each part, or one character only.
    """
    characters = Characters(text)
    cut = int(len(text) * 0.9)
    if len(text) - cut <= context:
        raise UserError(f"the corpus has {len(text)} characters, too few for a context of {context}: its "
                        f"last tenth needs {context + 1}; take a longer text or a smaller --context")
    if len(characters) == 1:
        raise UserError(f"the corpus holds one character only, {text[0]!r}, so there is nothing to guess; "
                        "take another text")
    ids = torch.tensor(characters.encode(text))
    return characters, ids[:cut], ids[cut:]


def batch(ids, context, size, seed):
    """(inputs, targets), each (size, context), from random places; the same seed gives the same batch."""
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(ids) - context, (size, 1), generator=draw).to(ids.device)
    windows = ids[starts + torch.arange(context + 1, device=ids.device)]  # (size, context + 1)
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def split_loss(model, ids, most=None):
    """Mean loss in nats over a split, in windows of one context that do not overlap: each token counts once.

    `most` looks at that many windows only, spread evenly: a cheaper estimate, the same every time.
    """
    context = model.config.max_seq_len
    windows = ids.unfold(0, context + 1, context)  # (windows, context + 1): neighbours share one token
    if most and most < len(windows):
        windows = windows[torch.linspace(0, len(windows) - 1, most).long()]
    device, training, total = next(model.parameters()).device, model.training, 0.0
    model.eval()
    for part in windows.split(max(1, 16_384 // context)):
        part = part.to(device)
        total += gpt.loss(model(part[:, :-1]), part[:, 1:]).item() * len(part)
    model.train(training)
    return total / len(windows)


def complete(model, characters, prompt="", n=500, *, temperature=0.8, k=0, p=1.0, seed=0):
    """The prompt and n characters after it. An empty prompt is a line break, where a paragraph starts."""
    prompt = prompt or ("\n" if "\n" in characters.number else characters.symbols[0])
    device, training = next(model.parameters()).device, model.training
    start = torch.tensor([characters.encode(prompt)], device=device)
    draw = torch.Generator(device).manual_seed(seed)
    ids = gpt.generate(model.eval(), start, n, temperature=temperature, k=k, p=p, generator=draw)
    model.train(training)
    return characters.decode(ids[0].tolist())
