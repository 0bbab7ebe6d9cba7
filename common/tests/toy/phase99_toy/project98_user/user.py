"""Uses the technique of project 99."""

from phase99_toy.project99_toy.toy import running_sum

if __name__ == "__main__":
    print(running_sum([1, 2, 3]))
