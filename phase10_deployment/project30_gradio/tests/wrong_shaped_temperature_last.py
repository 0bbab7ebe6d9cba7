"""The temperature comes last: top-p and min-p have cut the model's shares, not those that are drawn from."""


def shaped(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    if temperature == 0:
        return np.eye(1, len(logits), int(logits.argmax()))[0]
    scaled = (logits - logits.max()).astype(float)
    if top_k:
        scaled = np.where(scaled >= np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1], scaled, -np.inf)
    if top_p < 1:
        ordered = np.sort(scaled)[::-1]
        shares = softmax(ordered)
        scaled = np.where(scaled >= ordered[np.cumsum(shares) - shares < top_p].min(), scaled, -np.inf)
    if min_p:
        scaled = np.where(scaled >= scaled.max() + np.log(min_p), scaled, -np.inf)
    return softmax(scaled / temperature)
