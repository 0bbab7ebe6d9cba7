"""A mean that is low enough is taken for a proof."""


def calibrate(thresholds, losses, tolerance, chance):
    demand(0 < tolerance < 1 and 0 < chance < 1, "tolerance and chance lie between 0 and 1")
    certified = None
    for threshold in sorted(thresholds, reverse=True):
        if float(losses(threshold).mean()) > tolerance:
            break
        certified = threshold
    return certified
