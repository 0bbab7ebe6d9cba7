"""Computes everything, every time: right, and no cache at all."""


class PrefixCache:
    @torch.no_grad()
    def prefill(self, ids, room=0):
        context = self.model.config.max_seq_len
        demand(ids, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
        demand(len(ids) <= context, f"a prompt of {len(ids)} tokens, and the context is {context}")
        caches = caches_for(self.model, KVCache, 1, len(ids) + room)
        rest = torch.tensor([ids], device=self.model.embed.weight.device)
        logits = self.model.head(self.model.hidden(rest, caches=caches)[0, -1])
        return Prefill(logits, caches, 0, self.keep(ids, caches))
