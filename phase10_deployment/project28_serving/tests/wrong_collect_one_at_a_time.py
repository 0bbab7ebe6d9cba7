"""One order a turn: whoever comes in a crowd waits a step for each before him."""


class EngineLoop:
    def collect(self):
        if self.engine.busy and self.inbox.empty():
            return []
        return [self.inbox.get()]
