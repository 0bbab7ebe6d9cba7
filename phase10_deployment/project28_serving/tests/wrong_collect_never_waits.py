"""Turns in circles while there is nothing to do, and keeps a processor busy with it."""


class EngineLoop:
    def collect(self):
        orders = []
        while not self.inbox.empty():
            orders.append(self.inbox.get())
        return orders
