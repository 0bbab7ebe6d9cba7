"""Computes the rest as if it stood at the beginning: shared at a wrong position."""


class PrefixCache:
    @torch.no_grad()
    def prefill(self, ids, room=0):
        context = self.model.config.max_seq_len
        demand(ids, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
        demand(len(ids) <= context, f"a prompt of {len(ids)} tokens, and the context is {context}")
        n = self.index.match(ids[:-1])[0]
        caches = caches_for(self.model, KVCache, 1, len(ids) + room)
        rest = torch.tensor([ids[n:]], device=self.model.embed.weight.device)
        logits = self.model.head(self.model.hidden(rest)[0, -1])
        self.model.hidden(torch.tensor([ids], device=rest.device), caches=caches)
        return Prefill(logits, caches, n, self.keep(ids, caches))
