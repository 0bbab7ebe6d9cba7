"""Every "<" and "!" is taken apart: harmless text is no longer what was written."""


def inert(text):
    return re.sub(r"[<!]", lambda found: found[0] + APART, text)
