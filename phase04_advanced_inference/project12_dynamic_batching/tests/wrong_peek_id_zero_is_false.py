"""Request 0 is taken for nobody."""


class Waiting:
    def peek(self):
        tenants = self.tenants()
        if not tenants:
            return None
        poorest = min(tenants, key=lambda tenant: self.served[tenant])
        id = self.queues[poorest].peek()
        return self.sequences[id] if id else None
