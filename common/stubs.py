"""Surgery on source: the stub that a learner starts from, and a wrong solution laid over the reference.

Both work on the positions of the parsed file and never print a tree back, so that every byte outside the body
of a marked function stays as it was: formatting, comments, line ends. Files are bytes in and bytes out.

A function goes by its qualified name: `attend`, or `Attention.forward` for a method.
"""

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of a file: its name, its first and last line (counted from 1), and what a stub needs of it.

    `kept`: where the part ends that a stub keeps, signature and docstring, as (line, column in bytes).
    `margin`: what stands before each line of its body. `inline`: signature and docstring share a line.
    `marked`: it carries `@exercise`. `empty`: its body is nothing, or only raises NotImplementedError.
    """

    name: str
    first: int
    kept: tuple[int, int]
    last: int
    indent: int
    margin: bytes
    inline: bool
    marked: bool
    empty: bool
    docstring: str


def functions(source: bytes) -> list[Function]:
    """Every function and method of a file, top to bottom; SyntaxError where the file does not parse."""
    lines = source.splitlines(keepends=True)
    return [measure(name, node, lines) for name, node in named(ast.parse(source), "")]


def marked(source: bytes) -> dict[str, Function]:
    """The exercises of a file by name, in the order in which they stand there."""
    found = [function for function in functions(source) if function.marked]
    marks = [
        d for node in ast.walk(ast.parse(source)) for d in getattr(node, "decorator_list", ()) if is_mark(d)
    ]
    if len(marks) != len(found):
        raise ValueError(
            "@exercise marks functions and methods: not a class, not a function inside a function"
        )
    if len({function.name for function in found}) != len(found):
        raise ValueError("two exercises of one name: " + ", ".join(function.name for function in found))
    return {function.name: function for function in found}


def named(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, function) for each function of a module and of its classes; none inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        else:
            yield from named(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def is_mark(decorator: ast.expr) -> bool:
    """`@exercise`, or the same reached through a module."""
    return getattr(decorator, "id", getattr(decorator, "attr", None)) == "exercise"


def measure(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[bytes]) -> Function:
    """Where a function's parts lie."""
    docstring, head, first = ast.get_docstring(node), end_of_signature(node, lines), node.body[0]
    rest = node.body if docstring is None else node.body[1:]
    margin = lines[first.lineno - 1][: first.col_offset]
    return Function(
        name=name,
        first=node.lineno,
        kept=head if docstring is None else (first.end_lineno, first.end_col_offset),
        last=with_last_comments(node, lines),
        indent=node.col_offset,
        margin=lines[node.lineno - 1][: node.col_offset] + b"    " if margin.strip() else margin,
        inline=docstring is not None and first.lineno == head[0],
        marked=any(is_mark(decorator) for decorator in node.decorator_list),
        empty=all(says_nothing(statement) for statement in rest),
        docstring=docstring or "",
    )


def says_nothing(statement: ast.stmt) -> bool:
    """`pass`, `...`, or `raise NotImplementedError(...)`."""
    if isinstance(statement, ast.Raise):
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return getattr(raised, "id", None) == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and getattr(statement.value, "value", None) is Ellipsis
    )


def end_of_signature(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[bytes]) -> tuple[int, int]:
    """Just behind the colon that ends `def name(...) -> ...:`, the first one outside all brackets."""
    text = io.BytesIO(b"".join(lines[node.lineno - 1 :])).readline
    depth = 0
    for token in tokenize.tokenize(text):
        depth += (token.string in ("(", "[", "{")) - (token.string in (")", "]", "}"))
        if token.type == tokenize.OP and token.string == ":" and depth == 0:
            line = node.lineno - 1 + token.end[0]
            return line, len(
                lines[line - 1].decode()[: token.end[1]].encode()
            )  # tokens count characters, ast bytes
    raise ValueError(f"line {node.lineno}: no colon ends the signature of {node.name}")


def with_last_comments(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[bytes]) -> int:
    """The function's last line, with the comments that stand below its last statement and are its own."""
    last = node.end_lineno
    for number in range(node.end_lineno + 1, len(lines) + 1):
        text = lines[number - 1].strip()
        indent = len(lines[number - 1]) - len(lines[number - 1].lstrip())
        if text and not (text.startswith(b"#") and indent > node.col_offset):
            break
        last = number if text else last
    return last


def stub(source: bytes, hint: str, names: Iterable[str] | None = None) -> bytes:
    """The file with the bodies of its marked functions gone, or only of those in `names`.

    A body becomes its docstring and `raise NotImplementedError("write NAME: …")`; `hint` is what follows the
    colon, with {name} for the function's name.
    """
    found = marked(source)
    return cut(source, found.values() if names is None else [found[name] for name in names], hint)


def cut(source: bytes, chosen: Iterable[Function], hint: str) -> bytes:
    """The file with the bodies of these functions gone."""
    lines = source.splitlines(keepends=True)
    for function in sorted(chosen, key=lambda f: f.first, reverse=True):
        message = f"write {function.name}: {hint.format(name=function.name)}"
        raises = f'raise NotImplementedError("{message}")'.encode()
        line, column = function.kept
        behind = lines[line - 1][column:].strip()
        if function.inline:  # a suite on one line goes on behind a semicolon
            new = lines[line - 1][:column] + b"; " + raises
        elif not behind or behind.startswith(b"#"):
            new = lines[line - 1] + function.margin + raises
        else:
            new = lines[line - 1][:column] + newline(lines) + function.margin + raises
        lines[line - 1 : function.last] = [new + newline(lines)]
    return b"".join(lines)


def newline(lines: list[bytes]) -> bytes:
    """How the file ends its lines."""
    return b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"


def lay(source: bytes, other: bytes) -> bytes:
    """The file with the one function that `other` holds in the place of its own of that name.

    The decorators above it stay. ValueError where `other` holds none or several, or the file has none of that
    name.
    """
    new = the_function(other)
    name = new.name
    lines, replacing = source.splitlines(keepends=True), other.splitlines(keepends=True)
    places = [function for function in functions(source) if function.name == name]
    if len(places) != 1:
        raise ValueError(f"{len(places)} functions named {name} to replace, not one")
    old = places[0]
    if old.indent != new.indent:
        raise ValueError(f"{name} is indented by {new.indent} spaces, and by {old.indent} where it belongs")
    body = replacing[new.first - 1 : new.last]
    if not body[-1].endswith((b"\n", b"\r")):
        body[-1] += newline(lines)
    lines[old.first - 1 : old.last] = body
    return b"".join(lines)


def the_function(other: bytes) -> Function:
    """The one function that a wrong solution holds."""
    found = functions(other)
    if len(found) != 1:
        raise ValueError(f"a wrong solution holds one function, this one {len(found)}")
    return found[0]


def mistake(other: bytes) -> str:
    """What is wrong about a wrong solution: the first line of its first docstring."""
    text = ast.get_docstring(ast.parse(other)) or the_function(other).docstring
    if not text.strip():
        raise ValueError("its first docstring line must say the mistake in plain words")
    return text.strip().splitlines()[0]
