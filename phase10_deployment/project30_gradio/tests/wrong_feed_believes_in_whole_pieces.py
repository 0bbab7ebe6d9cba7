"""It takes each piece for whole lines: what is cut in the middle is lost."""


class Events:
    def feed(self, piece):
        found = []
        for line in re.split(rb"\r\n|\n|\r", piece):
            if line.startswith(b"data:"):
                self.data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
            elif not line and self.data:
                found.append("\n".join(self.data))
                self.data = []
        return found
