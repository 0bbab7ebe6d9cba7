"""The question is read without the caches: the passages are never looked at."""


class ChunkCache:
    @torch.no_grad()
    def prefill(self, passages, question, room=0):
        context, T = self.model.config.max_seq_len, len(question) + sum(map(len, passages))
        demand(question, "the question is empty: its last token is what the answer follows")
        demand(context >= T, f"a prompt of {T} tokens, and the context is {context}: fewer passages")
        caches, at, reused = caches_for(self.model, KVCache, 1, T + room), 0, 0
        for ids in passages:
            kept, kv = self.read(ids)
            positions = at + torch.arange(len(ids), device=kv.device)
            for cache, (k, v) in zip(caches, self.place(kv, at), strict=True):
                cache.update(k[None], v[None], positions)
            at, reused = at + len(ids), reused + kept * len(ids)
        rest = torch.tensor([question], device=self.model.embed.weight.device)
        logits = self.model.head(self.model.hidden(rest)[0, -1])
        return Prefill(logits, caches, reused, all(tuple(ids) in self.store.items for ids in passages))
