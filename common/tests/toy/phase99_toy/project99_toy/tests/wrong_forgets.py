"""Returns the number instead of the total."""


class Counter:
    def add(self, number):
        return Total(number)
