"""Every row reads the first row's table."""


class View:
    def slots(self, positions):
        return self.tables[0][positions // self.size] * self.size + positions % self.size
