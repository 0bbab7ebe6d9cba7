"""A ticket is forgotten with its first token: the rest of the text is told to nobody."""


class EngineLoop:
    def tell(self, events):
        letters = [(self.tickets.pop(event.id, None), event) for event in events]
        self.send([(ticket, event) for ticket, event in letters if ticket is not None])
