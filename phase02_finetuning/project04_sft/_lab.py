"""What the experiments share: the base model, rows of TinyTown, short trainings, and a judge."""

import copy
from itertools import islice

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from common.device import seed_all
from common.training import train
from data.tinytown import TinyTown

from . import _data, _judge, skill
from . import train as trainer
from .sft import AnswerLoss, Example, encode, prompt, truncate

ASKED = (*skill.KNOWLEDGE, "list", "json", "persona", "refusal")  # what the experiments teach and ask


class Lab(explore.Album):
    """The base model, never changed: each training has a copy of its own."""

    def __init__(self, config, run):
        super().__init__(config, run)
        folder = chain.find("base", config.model, say=run.say)
        self.tokenizer, self.base = tokenizers.load(folder), hub.load(folder, device=run.device).eval()
        self.context = min(256, self.base.config.max_seq_len)
        self.rows = self.town("train", config.rows)
        self.held = self.town("held-out", len(ASKED) * config.judged)
        self.valid = self.encoded(self.held)

    def town(self, split: str, n: int) -> list[dict]:
        """n rows of the families that are asked."""
        return list(islice(TinyTown().instructions(split, families=ASKED, seed=3), n))

    def encoded(self, rows: list[dict], how=encode) -> list[Example]:
        """Rows as examples that fit the context."""
        return [truncate(how(row["messages"], self.tokenizer), self.context) for row in rows]

    def tuned(self, examples: list[Example], evaluate=None, **changes):
        """(a copy of the base tuned on these examples, the evaluations on the way)."""
        usual = {name: getattr(self.config, name) for name in ("epochs", "batch_size", "learning_rate")}
        config = trainer.Config(**{**usual, "evals": 4, "save": False, **changes})
        model = copy.deepcopy(self.base)
        batch_at = _data.batches(examples, config, self.context, self.tokenizer.pad_id, self.run.device)
        seed_all(config.seed)
        history = train(AnswerLoss(model), batch_at, config.train_config(len(examples), self.run.device),
                        folder=self.training_folder(), say=lambda line: None,
                        evaluate=evaluate and (lambda: evaluate(model)))  # fmt: skip
        return model.eval(), history

    def loss(self, model) -> float:
        """Nats a token of the held-out answers."""
        return _judge.answer_loss(model, self.valid, self.tokenizer.pad_id)

    def scores(self, model, ask=prompt) -> dict[str, float]:
        """{"knowledge", "follows"} on held-out rows."""
        found = skill.score(model, self.tokenizer, self.held, ask=ask)
        return skill.headline(found)

    def perplexity(self, model, context: int = 128) -> float:
        """Of pages of the town that nobody has read."""
        context = min(context, self.context - 1)
        pages = TinyTown().pages(_judge.UNSEEN)
        return _judge.text_loss(model, self.tokenizer, pages, self.config.text, context)

    def pages(self, tokens: int) -> list[Example]:
        """Running text as examples in which everything counts: what the base was trained on."""
        return _data.pages(self.tokenizer, tokens, self.context)
