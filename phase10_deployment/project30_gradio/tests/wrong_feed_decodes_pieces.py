"""Bytes become text before the line is whole: a character that is cut in two is lost."""


class Events:
    def feed(self, piece):
        text = (self.left.decode("utf-8", "replace") + piece.decode("utf-8", "replace")).encode()
        *lines, self.left = re.split(rb"\r\n|\n|\r(?!\Z)", text)
        found = []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self.data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            elif not line and self.data:
                found.append("\n".join(self.data))
                self.data = []
        return found
