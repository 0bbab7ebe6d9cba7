"""Tickets of requests that have ended are kept for ever."""


class EngineLoop:
    def tell(self, events):
        self.send([(self.tickets[event.id], event) for event in events if event.id in self.tickets])
