"""Takes E for zero: the law then promises that a large enough model guesses everything."""


def fit(sizes, losses):
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    if len(sizes) < 4:
        raise ValueError(f"three numbers cannot be judged by {len(sizes)} sizes: train at least four")
    slope, intercept, _ = fit_line(np.log(sizes), np.log(losses))
    return PowerLaw(0.0, float(np.exp(intercept)), float(-slope))
