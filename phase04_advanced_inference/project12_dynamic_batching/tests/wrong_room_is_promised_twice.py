"""Never asks the store: memory is promised twice."""


class Scheduler:
    def make_room(self, sequence, n, planned):
        return True
