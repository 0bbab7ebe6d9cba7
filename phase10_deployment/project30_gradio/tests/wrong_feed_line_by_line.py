"""Each data line is an event of its own: one of two lines comes in two."""


class Events:
    def feed(self, piece):
        *lines, self.left = re.split(rb"\r\n|\n|\r(?!\Z)", self.left + piece)
        return [
            line[5:].removeprefix(b" ").decode("utf-8", "replace") for line in lines if line[:5] == b"data:"
        ]
