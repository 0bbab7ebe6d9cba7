"""Every row reads the first row's table."""


class View:
    def locate(self, positions, rows=slice(None)):
        return self.tables[0][positions // self.size], positions % self.size
