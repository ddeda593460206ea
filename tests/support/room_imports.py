"""Read which room of the product imports which: the list that docs/architecture.md shows.

A room is a folder below ``backend/`` or a file there, ``serverless``, ``demo`` or ``demo/scenes``.
Imports inside functions count, and so do those that only type checkers read.
``python -m tests.support.room_imports`` writes the list into docs/architecture.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).parents[2]
ARCHITECTURE_PAGE = REPOSITORY_ROOT / "docs" / "architecture.md"
PACKAGES = ("backend", "serverless", "demo")
SHARED_ROOMS = frozenset(
    f"backend/{name}"
    for name in (
        *("arrays", "callbacks", "card_records", "domain", "errors", "estimate"),
        *("json_records", "records", "server_url"),
    )
)
"""Files that every room may import; they import nothing but each other."""
IMPORT_LIST = re.compile(r"(?<=^```text imports\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class ModuleImport:
    """One import statement's module.

    Attributes:
        file: importing file, relative to the repository.
        name: imported module, dotted.
        for_types: only type checkers read it.
    """

    file: Path
    name: str
    for_types: bool


@cache
def product_modules() -> Mapping[str, Path]:
    """Return all modules of the product by dotted name, as paths relative to the repository."""
    files = [f for package in PACKAGES for f in (REPOSITORY_ROOT / package).rglob("*.py")]
    paths = sorted(file.relative_to(REPOSITORY_ROOT) for file in files)
    return {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


@cache
def parse_module(file: Path) -> ast.Module:
    """Parse a file of the product."""
    return ast.parse((REPOSITORY_ROOT / file).read_text())


@cache
def product_imports() -> tuple[ModuleImport, ...]:
    """Return every import of the product, wherever in a file it stands."""
    return tuple(one for file in product_modules().values() for one in _file_imports(file))


def _file_imports(file: Path) -> Iterator[ModuleImport]:
    tree = parse_module(file)
    type_blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    typed = {id(inner) for block in type_blocks for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            names = [_imported_module(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        yield from (ModuleImport(file, name, id(node) in typed) for name in names)


def _imported_module(package: str, name: str) -> str:
    """Return the module that ``from package import name`` reads."""
    return f"{package}.{name}" if f"{package}.{name}" in product_modules() else package


def room_of(file: Path) -> str:
    """Return the room that a file of the product belongs to."""
    is_nested = file.parts[0] == "backend" or len(file.parts) > 2
    return "/".join(file.parts[: 1 + is_nested]).removesuffix(".py")


def room_graph() -> dict[str, set[str]]:
    """Return by room the rooms it imports, without itself."""
    modules = product_modules()
    rooms = {room_of(f) for f in modules.values() if f.name != "__init__.py" or len(f.parts) > 2}
    graph: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for one in product_imports():
        if one.name in modules and modules[one.name].parts[1:] != ("__init__.py",):
            graph.setdefault(room_of(one.file), set()).add(room_of(modules[one.name]))
    return {room: imported - {room} for room, imported in graph.items()}


def file_graph() -> dict[str, set[str]]:
    """Return by module the modules it imports when it runs, inside functions too."""
    modules = product_modules()
    names = {file: name for name, file in modules.items()}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for one in product_imports():
        if one.name in modules and not one.for_types and names[one.file] != one.name:
            graph[names[one.file]].add(one.name)
    return graph


def format_import_list() -> str:
    """Format the arrows between rooms, one line per room, without the shared rooms."""
    return "".join(
        f"{room} → {', '.join(sorted(imported - SHARED_ROOMS))}".rstrip() + "\n"
        for room, imported in room_graph().items()
        if room not in SHARED_ROOMS
    )


def main() -> None:
    """Write the list into docs/architecture.md."""
    page = ARCHITECTURE_PAGE.read_text()
    assert IMPORT_LIST.search(page), "docs/architecture.md has no block ```text imports"
    ARCHITECTURE_PAGE.write_text(IMPORT_LIST.sub(lambda _: format_import_list(), page))


if __name__ == "__main__":
    main()
