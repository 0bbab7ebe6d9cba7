"""Whoever waits steps in one step late: a place that is free stands empty once."""


def continuous_steps(lengths, B):
    waiting, running, steps = deque(lengths), [], 0
    while waiting or running:
        steps += 1
        running = [left - 1 for left in running if left > 1]
        while waiting and len(running) < B:
            running.append(waiting.popleft())
    return steps
