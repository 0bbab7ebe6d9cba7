"""Says what the technique gives: `ranks.py spawn` in two processes, under torchrun in each rank."""

import multiprocessing
import sys

from phase99_toy.project99_toy.toy import Counter, running_sum


def give(number):
    """A total (an instance of the technique's own class) that is pickled on its way back."""
    return Counter().add(running_sum([number, number])[-1])


def answer(queue, number):
    queue.put(give(number))


if __name__ == "__main__":
    if sys.argv[1:] == ["spawn"]:
        spawn = multiprocessing.get_context("spawn")
        queue = spawn.Queue()
        ranks = [spawn.Process(target=answer, args=(queue, number)) for number in (1, 2)]
        for rank in ranks:
            rank.start()
        print(sorted([queue.get(), queue.get()], key=lambda total: total.value))
        for rank in ranks:
            rank.join()
    else:
        print(give(1))
