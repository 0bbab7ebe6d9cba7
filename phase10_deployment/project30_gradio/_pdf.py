"""What a child does that reads one PDF: it writes the text, within a limit of memory and time."""

import sys

PAGES, SECONDS, MEMORY = 300, 15, 1 << 30


def limit():
    """What this process may take; off Unix the parent's patience alone holds it."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main(path, most):
    """The text of a PDF, at most so many characters of it, to standard output."""
    limit()
    try:
        from pypdf import PdfReader
    except ImportError:
        raise SystemExit("pypdf is not installed: ./thirty --install ui") from None
    try:
        reader, parts, size = PdfReader(path), [], 0
        for page in reader.pages[:PAGES]:
            parts.append(page.extract_text() or "")
            size += len(parts[-1])
            if size >= most:
                break
    except Exception as error:  # whatever a parser of strangers' bytes may raise
        raise SystemExit(f"it is no PDF that can be read ({type(error).__name__})") from None
    sys.stdout.buffer.write("\n\n".join(parts)[:most].encode("utf-8", "replace"))
