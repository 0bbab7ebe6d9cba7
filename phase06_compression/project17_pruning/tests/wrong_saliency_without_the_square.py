"""Divides by the root of what it should divide by."""


def saliency(w, U):
    return w.square() / U.diagonal()
