"""The overlap comes on top: with it a chunk has more words than it may."""


def chunks(text, size=80, overlap=20):
    demand(0 <= overlap < size, f"an overlap of {overlap}: from 0 to less than the size, {size}")
    parts, found, first = measured(text, size), [], 0
    while first < len(parts):
        end, n = first, 0
        while end < len(parts) and n + parts[end][2] <= size:
            n, end = n + parts[end][2], end + 1
        begin, shared = first, 0
        while begin > 0 and shared + parts[begin - 1][2] <= overlap:
            begin -= 1
            shared += parts[begin][2]
        found.append((parts[begin][0], parts[end - 1][1]))
        first = end
    return found
