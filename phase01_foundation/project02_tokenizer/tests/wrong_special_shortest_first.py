"""Tries the short special tokens first, so that a longer one that begins alike is never read."""


def split_special(text, special):
    if not special:
        return [text] if text else []
    shortest_first = sorted(special, key=len)
    return [part for part in regex.split(f"({'|'.join(map(regex.escape, shortest_first))})", text) if part]
