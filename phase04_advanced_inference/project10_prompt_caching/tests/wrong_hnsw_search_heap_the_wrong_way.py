"""The heap of the best gives up its nearest where it should give up its worst."""


class HNSW:
    def search_layer(self, query, starts, ef, floor):
        met, candidates, best = {n for _, n in starts}, list(starts), list(starts)
        heapq.heapify(candidates)
        heapq.heapify(best)
        while candidates:
            far, number = heapq.heappop(candidates)
            if len(best) >= ef and far > best[0][0]:
                break
            new = [other for other in self.links[number][floor] if other not in met]
            met.update(new)
            for away, other in zip(self.distances(query, new) if new else [], new, strict=True):
                heapq.heappush(candidates, (away, other))
                heapq.heappush(best, (away, other))
                if len(best) > ef:
                    heapq.heappop(best)
        return sorted(best)[:ef]
