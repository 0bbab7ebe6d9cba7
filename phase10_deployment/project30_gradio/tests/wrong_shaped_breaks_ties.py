"""Exactly k stay: of equal logits some are thrown out, by chance of their numbers."""


def shaped(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if temperature == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    scaled = (logits - logits.max()).astype(float) / temperature
    if top_k:
        out = np.argsort(-scaled, kind="stable")[top_k:]
        scaled[out] = -np.inf
    if top_p < 1:
        ordered = np.sort(scaled)[::-1]
        shares = softmax(ordered)
        scaled = np.where(scaled >= ordered[np.cumsum(shares) - shares < top_p].min(), scaled, -np.inf)
    if min_p:
        scaled = np.where(scaled >= scaled.max() + np.log(min_p), scaled, -np.inf)
    return softmax(scaled)
