"""Waits for an order though texts are being written: they stop until somebody comes."""


class EngineLoop:
    def collect(self):
        orders = [self.inbox.get()]
        while not self.inbox.empty():
            orders.append(self.inbox.get())
        return orders
