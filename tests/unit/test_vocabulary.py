"""One name has one meaning: public names in the product are unique, constants name their object."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.support.room_imports import parse_module, product_modules

ENTRY_POINT = "main"
"""Each program has one: the command, the worker process."""
VAGUE_CONSTANTS = set(
    "AT_ONCE BEST BIG BUSY CLOSE DONE ENOUGH FAR FEW FIRST FREE GIVEN HALF HERE KEPT KNOWN LARGE "
    "LAST LATER LEAST LITTLE LOADED LONG LONGEST_WAIT LOOK MADE MANY MOST NEAR NEVER NEW NOTHING "
    "OLD ONCE PART PATIENCE QUIET REST SAME SECONDS SHORT SHOWN SMALL SOON SPARE SURE TELL THERE "
    "TIMES TOLD TRIES UNSURE WAIT WANTED WHOLE".split()
)
"""Names that carry neither a unit nor an object, such as ``IDLE_TIMEOUT_SECONDS`` does."""


def public_definitions(file: Path) -> list[str]:
    """The public classes and functions of a file, on its top level."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    body = parse_module(file).body
    return [n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def test_no_public_class_or_function_name_is_defined_in_two_files() -> None:
    files_by_name = defaultdict(set)
    for file in product_modules().values():
        for name in public_definitions(file):
            files_by_name[name].add(str(file))
    repeated = {name: sorted(files) for name, files in files_by_name.items() if len(files) > 1}
    repeated.pop(ENTRY_POINT, None)
    assert repeated == {}


def test_no_constant_is_named_without_its_unit_or_object() -> None:
    vague = [
        f"{file}: {node.id}"
        for file in product_modules().values()
        for node in ast.walk(parse_module(file))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        if node.id in VAGUE_CONSTANTS
    ]
    assert vague == []
