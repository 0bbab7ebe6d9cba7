"""One message for each event: the other thread is woken as often as texts grow."""


class EngineLoop:
    def tell(self, events):
        for event in events:
            ticket = self.tickets.get(event.id)
            if event.finish is not None:
                self.tickets.pop(event.id, None)
            if ticket is not None:
                self.send([(ticket, event)])
