"""Text out of uploaded files: bounded in number, size and time, and never run, unpacked or believed.

A PDF is parsed in a process of its own, with a limit on its memory and time: parsers of old formats are where
bombs go off. Images go through tesseract, where it is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from common.cli import launch, paths
from common.errors import UserError, demand

FILES, BYTES, CHARACTERS, SECONDS, PIXELS = 20, 8 << 20, 400_000, 20, 40_000_000
PLAIN = [".txt", ".md", ".rst", ".csv", ".json", ".log", ".py", ".js", ".ts", ".c", ".h", ".cpp", ".rs",
         ".go", ".java", ".sh", ".sql", ".toml", ".yaml", ".yml", ".html", ".css", ".tex"]  # fmt: skip
IMAGES = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"]
KINDS = [*PLAIN, ".pdf", *IMAGES]


def called(path):
    """A document's name as it is shown: the file's own, without what a file system might mean by it."""
    name = "".join(c for c in Path(path).name if c.isprintable())
    return name[:80] or "a document"


def text_of(path):
    """What a file says, at most CHARACTERS of it. UserError where that cannot be told, and why."""
    path = Path(path)
    name, kind = called(path), path.suffix.lower()
    known = "text, code, .pdf and images are"
    demand(kind in KINDS, f"{name}: {kind or 'a file without an ending'} is not read here; {known}")
    size = path.stat().st_size
    demand(0 < size <= BYTES, f"{name} has {size:,} bytes: from 1 to {BYTES:,} are read")
    if kind == ".pdf":
        text = by_child(name, path)
    elif kind in IMAGES:
        text = by_tesseract(name, path)
    else:
        text = plain(name, path.read_bytes())
    text = text.replace("\r\n", "\n").replace("\0", " ")[:CHARACTERS]
    demand(text.strip(), f"no text was found in {name}")
    return text


def plain(name, data):
    """UTF-8, or UTF-16 where it says so at its beginning."""
    demand(b"\0" not in data[:4096] or data[:2] in (b"\xff\xfe", b"\xfe\xff"), f"{name} is no text")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # old, but it cannot fail


def run(name, command, **options):
    """What a program says within its time."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, **options)
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} took longer than {SECONDS} s to read: it was given up") from None
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it says no more"]
    demand(done.returncode == 0, f"{name} could not be read: {last[0][:200]}")
    return done.stdout.decode("utf-8", "replace")


def by_child(name, path):
    """The text of a PDF, by `_pdf.py` in a process of its own."""
    code = (f"import sys; sys.path.insert(0, sys.argv[1]); from {__package__} import _pdf; "
            "_pdf.main(sys.argv[2], int(sys.argv[3]))")  # fmt: skip
    command = [sys.executable, "-c", code, str(paths.ROOT), str(path.resolve()), str(CHARACTERS)]
    return run(name, command, env=launch.environment())


def by_tesseract(name, path):
    """The text of an image. It is opened here first: tesseract sees an honest PNG of a bounded size."""
    from PIL import Image

    program = shutil.which("tesseract")
    demand(program, f"{name} is an image, and tesseract is not installed here: no text can be read from it")
    try:
        with Image.open(path) as image:
            demand(image.width * image.height <= PIXELS, f"{name} has more than {PIXELS:,} pixels")
            clean = path.with_suffix(".read.png")
            image.convert("L").save(clean)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is no image that can be read: {error}") from None
    try:
        return run(name, [program, str(clean), "stdout"])
    finally:
        clean.unlink(missing_ok=True)
