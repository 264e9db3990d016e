"""Computes a digest of the code that a classifier is computed by: its module, and all of fastlt that it imports.

Comments, docstrings and layout do not change the digest. So a stored classifier is fitted again if the code that it
uses has changed, and only then.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_FILES = ("core/*.py", "kernels/*.py", "longtail/**/*.py", "stage2/**/*.py")


def read_sources() -> dict[str, str]:
    """Returns the source of every module that a classifier may use, by name, such as `fastlt.kernels.class_mean`."""
    files = {path.relative_to(_ROOT): path for pattern in _FILES for path in _ROOT.glob(pattern)}
    names = {".".join(("fastlt", *file.with_suffix("").parts)): path for file, path in files.items()}
    return {name.removesuffix(".__init__"): path.read_text("utf-8") for name, path in names.items()}


SOURCES = read_sources()  # at import, as the files may be edited while a long run goes on with what was imported


def code_digest(modules: Iterable[str], sources: Mapping[str, str], alone: Iterable[str]) -> str:
    """Returns the SHA-256 of the code of modules and of all modules that they import, directly or indirectly.

    modules: names of modules. sources: source by name of module; others are ignored. alone: names of modules that are
    included without what they import. An import of `a.b.c` includes `a.b.c`, but not the packages `a` and `a.b`.
    """
    code = {name: _parsed(sources[name])[0] for name in alone}
    wanted = list(modules)
    while wanted:
        name = wanted.pop()
        if name in sources and name not in code:
            code[name], imported = _parsed(sources[name])
            wanted += imported
    return hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()


@cache
def _parsed(source: str) -> tuple[str, tuple[str, ...]]:
    """Returns the code of a module, and the names of modules and of things in modules that it imports."""
    tree = ast.parse(source)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return ast.dump(_Code().visit(tree)), tuple(names)


class _Code(ast.NodeTransformer):
    """Removes docstrings, and other strings that are statements of their own, from a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Returns None, which removes the node, for a string. The method's name is prescribed by `ast`."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
