"""Sends back what this rank alone has to say: the other heads do not count."""


class Copy:
    @staticmethod
    def backward(ctx, dy):
        return dy, None
