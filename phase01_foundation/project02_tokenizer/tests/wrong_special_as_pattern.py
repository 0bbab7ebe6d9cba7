"""Takes the special tokens for regular expressions, in which . and * and | mean something else."""


def split_special(text, special):
    if not special:
        return [text] if text else []
    longest_first = sorted(special, key=len, reverse=True)
    return [part for part in regex.split(f"({'|'.join(longest_first)})", text) if part]
