"""Scales and does not centre."""


def zscore(scores):
    spread = scores.std()
    return scores / spread if spread > 0 else np.zeros_like(scores)
