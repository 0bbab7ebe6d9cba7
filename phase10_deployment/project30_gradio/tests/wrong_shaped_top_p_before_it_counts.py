"""A token stays only if those before it *and itself* have less than top_p: one too few stays."""


def shaped(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if temperature == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    scaled = (logits - logits.max()).astype(float) / temperature
    if top_k:
        scaled = np.where(scaled >= np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1], scaled, -np.inf)
    if top_p < 1:
        ordered = np.sort(scaled)[::-1]
        within = np.cumsum(softmax(ordered)) <= top_p
        scaled = np.where(scaled >= ordered[max(0, int(within.sum()) - 1)], scaled, -np.inf)
    if min_p:
        scaled = np.where(scaled >= scaled.max() + np.log(min_p), scaled, -np.inf)
    return softmax(scaled)
