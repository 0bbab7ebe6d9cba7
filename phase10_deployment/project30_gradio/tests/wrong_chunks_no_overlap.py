"""Each chunk begins where the one before ended: what stands around the cut is together nowhere."""


def chunks(text, size=80, overlap=20):
    demand(0 <= overlap < size, f"an overlap of {overlap}: from 0 to less than the size, {size}")
    parts, found, first = measured(text, size), [], 0
    while first < len(parts):
        end, n = first, 0
        while end < len(parts) and n + parts[end][2] <= size:
            n, end = n + parts[end][2], end + 1
        found.append((parts[first][0], parts[end - 1][1]))
        first = end
    return found
