"""What a submitted file says before it is run: read from its text, and never by running it.

Tests take the naive version of a technique from the very file in which the learner writes, so whoever may
change that file could change what the tests compare with. `restored` puts back whatever was handed out and is
no exercise. `charges` are changes of what belongs to others, for which there is no innocent reason; `looks`
are words that an honest solution seldom needs, for a person to look at.
"""

import ast
from collections.abc import Iterator

from common import stubs

# Ways out of one's own function: into other modules, other frames, the system, or what a comparison says.
WORDS = {"sys", "os", "gc", "inspect", "ctypes", "builtins", "importlib", "runpy", "pytest", "_pytest",
         "unittest", "subprocess", "multiprocessing", "socket", "signal", "atexit", "tempfile", "pathlib",
         "shutil", "eval", "exec", "compile", "open", "globals", "vars", "setattr", "delattr", "__import__",
         "__builtins__", "__globals__", "__code__", "__dict__", "__class__", "__subclasses__", "__eq__",
         "__ne__", "__lt__", "__bool__", "__len__", "__array__", "__torch_function__", "__getattribute__",
         "__del__", "f_back", "f_globals", "f_locals", "_getframe", "modules", "doctest", "proofs",
         "recorder", "sealed"}  # fmt: skip

COMPARING = {"__eq__", "__ne__", "__torch_function__", "__torch_dispatch__", "__array_ufunc__"}


def parts(source: bytes) -> dict[str, str]:
    """Every function of a file by its qualified name: decorators, signature and body, without docstring."""
    return {name: plain(node) for name, node in stubs.named(ast.parse(source), "")}


def plain(node: ast.AST) -> str:
    """A function in words that do not change with its layout, comments and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    decorators = [ast.dump(each) for each in node.decorator_list]
    return "\n".join([*decorators, ast.dump(node.args), *map(ast.dump, body)])


def restored(source: bytes, reference: bytes) -> tuple[bytes, list[str]]:
    """The submitted file with every function that is no exercise as it was handed out, and which those are.

    ValueError where that cannot be done: a function is there twice, or with other decorators.
    """
    ours, theirs = stubs.functions(reference), parts(source)
    wanted, changed = parts(reference), []
    for function in ours:
        name = function.name
        if function.marked or name not in theirs or theirs[name] == wanted[name]:
            continue
        source = stubs.lay(source, alone(reference, function))
        changed.append(name)
    now = parts(source)
    for name in changed:
        if now[name] != wanted[name]:
            raise ValueError(f"{name} is no exercise, and its decorators are not those handed out")
    return source, changed


def alone(reference: bytes, function: stubs.Function) -> bytes:
    """A file that holds this one function, in its class."""
    lines = reference.splitlines(keepends=True)[function.first - 1 : function.last]
    classes = function.name.split(".")[:-1]
    heads = [b"    " * depth + f"class {name}:\n".encode() for depth, name in enumerate(classes)]
    return b"".join([*heads, *lines])


def charges(source: bytes, reference: bytes) -> list[str]:
    """Lines that set names of an imported module or class, or give another meaning to what was handed out."""
    tree, ours = ast.parse(source), ast.parse(reference)
    imported, found = set(imports(tree)), []
    handed_out = {node.name for node in ours.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    methods = {name for name, _ in stubs.named(ours, "")}
    set_by_us = {ast.unparse(node) for node in setting(ours)}
    for node in setting(tree):
        root, name = node.value, ast.unparse(node)
        while isinstance(root, ast.Attribute):
            root = root.value
        foreign = isinstance(root, ast.Name) and (root.id in imported or name in methods)
        if foreign and name not in set_by_us:
            found.append(f"line {node.lineno} sets {name}, which is not its own")
    for node in ast.walk(tree):
        if isinstance(node, ast.Global) and handed_out & set(node.names):
            found.append(f"line {node.lineno} takes {', '.join(node.names)} to set it anew")
    for line, name in bound(tree):
        if name in handed_out and name not in {name for _, name in bound(ours)}:
            found.append(f"line {line} gives {name} another meaning")
    equal = COMPARING - {word for _, word in words(reference)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in equal:
            found.append(f"line {node.lineno} defines {node.name}, to tell tests what is equal")
    names, once = [name for name, _ in stubs.named(tree, "")], [name for name, _ in stubs.named(ours, "")]
    return found + [f"{name} is there twice" for name in once if names.count(name) > once.count(name)]


def setting(tree: ast.AST) -> list[ast.Attribute]:
    """The attributes that a file sets or deletes."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return [node for node in nodes if not isinstance(node.ctx, ast.Load)]


def imports(tree: ast.AST) -> Iterator[str]:
    """The names that import statements give."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]


def bound(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of what statements of a module bind, other than by def and class; functions left out."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.lineno, node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, alias.asname or alias.name) for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def looks(source: bytes, reference: bytes | None) -> list[str]:
    """`line 3: gc` for each word of WORDS that the reference does without, once each."""
    known = {word for _, word in words(reference)} if reference is not None else set()
    first: dict[str, int] = {}
    for line, word in words(source):
        if word in WORDS and word not in known:
            first[word] = min(line, first.get(word, line))
    found = [f"line {line}: {word}" for word, line in sorted(first.items(), key=lambda item: item[1])]
    ours, theirs = constants(reference or b""), constants(source)
    return found + [
        f"{name} is not as handed out" for name in ours if theirs.get(name, ours[name]) != ours[name]
    ]


def constants(source: bytes) -> dict[str, str]:
    """What a file gives names to at its top level."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target): ast.dump(node) for target in targets}
    return found


def words(source: bytes) -> Iterator[tuple[int, str]]:
    """(line, word) for every name, attribute, imported module and function of a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value  # getattr(x, "__globals__")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            dotted = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from ((node.lineno, word) for name in dotted for word in name.split("."))


def word_for_word(source: bytes, reference: bytes, least: int = 60) -> list[str]:
    """The exercises that are the reference's own, but for layout and comments; `least`: nodes of its tree."""
    ours, theirs = parts(reference), parts(source)
    long = {name for name, node in stubs.named(ast.parse(reference), "") if len(list(ast.walk(node))) > least}
    return [name for name in stubs.marked(reference) if name in long and ours[name] == theirs.get(name)]
