"""Reuses the whole of a repeated prompt: there is no token left whose logits to read."""


class PrefixCache:
    @torch.no_grad()
    def prefill(self, ids, room=0):
        context = self.model.config.max_seq_len
        demand(ids, "the prompt is empty: begin with a token, such as the tokenizer's end of text")
        demand(len(ids) <= context, f"a prompt of {len(ids)} tokens, and the context is {context}")
        n, blocks = self.index.match(ids)
        caches = caches_for(self.model, KVCache, 1, len(ids) + room)
        self.load(blocks, caches)
        rest = torch.tensor([ids[n:]], device=self.model.embed.weight.device)
        logits = self.model.head(self.model.hidden(rest, caches=caches)[0, -1])
        return Prefill(logits, caches, n, self.keep(ids, caches))
