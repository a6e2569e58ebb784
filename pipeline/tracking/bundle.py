"""The code that travels with a registered model: what `busi.serving` imports of `busi`, under a name of its own.

The name, `busi_` and the first digits of the code's digest, lets several versions run side by side in one process, and
keeps the working tree's `busi` from being taken for the one that was registered.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.paths import ROOT

SOURCES = ROOT / "src"
PACKAGE, ENTRY = "busi", "busi.serving"
DIGITS = 12  # of the digest, in the package's name


@dataclass(frozen=True)
class Bundle:
    """Source files of the package `busi`: path relative to the folder that holds the package → its bytes."""

    files: dict[str, bytes]

    @cached_property
    def digest(self) -> str:
        """The sha256 of names and bytes, 64 hex digits: the same code gives the same digest on every machine."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    @property
    def package(self) -> str:
        """The name that the package has in the bundle."""
        return f"{PACKAGE}_{self.digest[:DIGITS]}"

    @property
    def loader_module(self) -> str:
        """The module that MLflow calls to load the model."""
        return f"{self.package}{ENTRY.removeprefix(PACKAGE)}"

    def write(self, folder: Path) -> Path:
        """Write the package into `folder`, its imports of `busi` renamed; the package's folder."""
        for name, content in self.files.items():
            path = folder / self.package / Path(name).relative_to(PACKAGE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rename_imports(content, self.package))
        return folder / self.package


def collect(sources: Path | None = None) -> Bundle:
    """The files of `busi` that `busi.serving` imports, directly or not, also within functions.

    Args:
        sources: the folder that holds the package; None for `src/` of this repository.

    Raises:
        ValueError: a module imports what is not there, or reads files that lie beside it, which a bundle lacks.
    """
    sources = sources or SOURCES
    found: dict[str, bytes] = {}
    waiting = [ENTRY]
    while waiting:
        module = waiting.pop()
        # Importing a module imports the packages that it is in
        for name in (".".join(module.split(".")[: depth + 1]) for depth in range(module.count(".") + 1)):
            path = _file_of(sources, name)
            if path is None:
                raise ValueError(f"{name}, which the code that serves imports, is not in {sources}")
            relative = path.relative_to(sources).as_posix()
            if relative in found:
                continue
            found[relative] = path.read_bytes()
            tree = ast.parse(found[relative], relative)
            if any(isinstance(node, ast.Name) and node.id == "__file__" for node in ast.walk(tree)):
                raise ValueError(f"{relative} uses __file__; the code that serves may not read files beside it")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += [one for one in _imported(tree, package) if _file_of(sources, one)]
    return Bundle(found)


def rename_imports(source: bytes, package: str) -> bytes:
    """Python source whose imports of `busi` name `package` instead; everything else stays as it is.

    `import busi.x` binds the name `busi`, so it also gets `package as busi`. Relative imports need no change. The
    module names given to `import_module` and `__import__` are renamed like imports.
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def span(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    changes: list[tuple[int, int, bytes]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in (alias for alias in node.names if _is_ours(alias.name)):
                renamed = package + alias.name.removeprefix(PACKAGE)
                if alias.asname:
                    text = f"{renamed} as {alias.asname}"
                else:
                    text = f"{package} as {PACKAGE}" if alias.name == PACKAGE else f"{renamed}, {package} as {PACKAGE}"
                changes.append((*span(alias), text.encode()))
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            start, end = span(node)
            match = re.match(rb"from\s+" + PACKAGE.encode() + rb"\b", source[start:end])
            if match is None:
                raise ValueError(f"line {node.lineno}: expected `from {PACKAGE}...` on one line")
            changes.append((start, start + match.end(), f"from {package}".encode()))
        elif (constant := _imported_by_name(node)) is not None and _is_ours(constant.value):
            changes.append((*span(constant), repr(package + constant.value.removeprefix(PACKAGE)).encode()))
    for start, end, text in sorted(changes, reverse=True):
        source = source[:start] + text + source[end:]
    return source


def import_all(folder: Path) -> None:
    """Import every module of the renamed packages in `folder`, which is on `sys.path`.

    After that the files may be removed, although functions in the modules import when they are called.
    """
    for path in sorted(folder.glob(f"{PACKAGE}_*/**/*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        if module not in sys.modules:
            __import__(module)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Names of modules, or of what may be one, that a module in `package` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            if _is_ours(module):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (constant := _imported_by_name(node)) is not None and _is_ours(constant.value):
            yield constant.value


def _imported_by_name(node: ast.AST) -> ast.Constant | None:
    """The text in `import_module("busi.x")` or `__import__("busi.x")`, if the node is such a call."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    function, first = node.func, node.args[0]
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return first if name in ("import_module", "__import__") and is_text else None


def _is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _file_of(sources: Path, module: str) -> Path | None:
    path = sources.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None
