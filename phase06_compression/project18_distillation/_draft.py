"""The student as project 11's draft: how many of its guesses the teacher keeps."""

import torch

from common.generate import Sampling
from data.tinytown import TinyTown
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for
from phase04_advanced_inference.project11_speculative_decoding.drafts import ModelDraft
from phase04_advanced_inference.project11_speculative_decoding.rounds import Text, speculate

UNSEEN = 3_000_000  # pages from this number on were read by nobody


class Counted(ModelDraft):
    """A draft that counts its guesses: those that held, and those that were looked at to find that out."""

    rounds = asked = right = 0

    def verify(self, text, logits):
        G, ids = len(text.guesses), super().verify(text, logits)
        self.rounds, self.right = self.rounds + 1, self.right + len(ids) - 1
        self.asked += min(len(ids), G)  # what stands behind the first wrong guess is never looked at
        return ids


def prompts(tokenizer, count, length):
    """The first ids of pages that nobody read, as many of each."""
    found, page = [], UNSEEN
    while len(found) < count:
        ids = tokenizer.encode(TinyTown().page(page))
        page += 1
        if len(ids) >= length:
            found.append(ids[:length])
    return found


@torch.no_grad()
def accepted(teacher, student, asked, new, K=4, temperature=1.0):
    """{"accepted": the share of guesses that held, "a round": its tokens, "new ids": of each prompt}."""
    samplings = [Sampling(max_tokens=new, temperature=temperature, seed=i, ignore_eos=True)
                 for i in range(len(asked))]  # fmt: skip
    pairs = enumerate(zip(asked, samplings, strict=True))
    texts = [Text(i, ids, sampling, teacher) for i, (ids, sampling) in pairs]
    size = max(len(ids) for ids in asked) + new
    draft = Counted(student, K, rows=len(texts), size=size)
    for _ in speculate(teacher, texts, draft, caches_for(teacher, StaticCache, len(texts), size)):
        pass
    return {"accepted": draft.right / max(1, draft.asked), "a round": 1 + draft.right / max(1, draft.rounds),
            "new ids": [text.new for text in texts]}  # fmt: skip
