"""Fits three numbers to three points, which always succeeds and shows nothing."""


def fit(sizes, losses):
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    laws = []
    for E in losses.min() * np.linspace(0, 0.999, 2000):
        slope, intercept, _ = fit_line(np.log(sizes), np.log(losses - E))
        laws.append(PowerLaw(float(E), float(np.exp(intercept)), float(-slope)))
    return min(laws, key=lambda law: ((law(sizes) - losses) ** 2).sum())
