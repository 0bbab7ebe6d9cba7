"""Calls the library's product in every case: right, and no faster than before."""


class OneRow:
    def forward(self, x):
        return super().forward(x)
