"""The folder tree is the architecture: which room imports which, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.room_imports import (
    ARCHITECTURE_PAGE,
    IMPORT_LIST,
    REPOSITORY_ROOT,
    SHARED_ROOMS,
    file_graph,
    format_import_list,
    product_imports,
    room_graph,
)

INDEPENDENT_ROOMS = ("backend/learning", "backend/store", "backend/vision", "demo/scenes")
"""Rooms that import nothing but the shared ones."""
COMPOSITION_ROOTS = {"backend/bootstrap.py", "backend/cli/deploy.py"}
PACKAGE_OWNERS: Mapping[str, tuple[str, ...]] = {
    "cleanlab": ("backend/learning/label_errors.py",),
    "fastapi": ("backend/endpoint", "backend/server"),
    "imagehash": ("backend/endpoint/capture_recorder.py",),
    "jinja2": ("backend/dashboard/rendering.py",),
    "label_studio_ml": ("backend/server/stock.py",),
    "label_studio_sdk": ("backend/label_studio/api_session.py",),
    "modal": ("serverless",),
    "open_clip": ("backend/vision/encoders/clip.py",),
    "openvino": ("backend/vision/runtime/openvino_runner.py",),
    "pathvalidate": ("backend/tools/dataset/file_names.py",),
    "pillow_heif": ("backend/vision/images/formats.py",),
    "prometheus_client": ("backend/endpoint/prometheus_metrics.py",),
    "rich": ("backend/cli/terminal.py",),
    "keyring": ("backend/store/login.py",),
    "skimage": ("backend/vision",),
    "sqlite3": ("backend/vision/encoders/embedding_cache.py",),
    "starlette": ("backend/endpoint", "backend/server"),
    "torch": ("backend/vision", "serverless/modal_jobs.py"),
    "ultralytics": (
        "backend/vision/ultralytics_models.py",
        "backend/vision/detection/ultralytics_trainer.py",  # subclasses of its trainers
    ),
    "uvicorn": ("backend/cli",),
    "yaml": ("backend/onboarding/label_sources/yolo.py", "backend/tools/dataset/yolo.py"),
}
"""The files or folders that alone import a package."""
HEAVY = (
    *("torch", "ultralytics", "open_clip", "skimage", "scipy", "label_studio_sdk", "numpy"),
    *("cleanlab", "sklearn", "pandas"),
)


def test_the_page_on_architecture_lists_exactly_the_imports_between_rooms() -> None:
    """``python -m tests.support.room_imports`` writes the list anew."""
    lists = IMPORT_LIST.findall(ARCHITECTURE_PAGE.read_text())
    assert lists == [format_import_list()]


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    assert cycle_in(room_graph()) == []


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert cycle_in(file_graph()) == []


def cycle_in(graph: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_shared_and_independent_rooms_import_no_other_room() -> None:
    graph = room_graph()
    rooms = [room for room in (*SHARED_ROOMS, *INDEPENDENT_ROOMS) if room in graph]
    assert {room: graph[room] - SHARED_ROOMS for room in rooms} == {room: set() for room in rooms}


def test_only_the_composition_roots_import_serverless() -> None:
    importers = {
        str(one.file)
        for one in product_imports()
        if one.name.split(".")[0] == "serverless" and one.file.parts[0] != "serverless"
    }
    assert importers == COMPOSITION_ROOTS


def test_every_outside_package_is_imported_in_one_place() -> None:
    foreign = [
        f"{one.file} imports {one.name}"
        for one in product_imports()
        if not one.for_types
        and (owners := PACKAGE_OWNERS.get(one.name.split(".")[0]))
        and not any(one.file.is_relative_to(owner) for owner in owners)
    ]
    assert foreign == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("backend.cli.main", (*HEAVY, "fastapi", "httpx", "uvicorn", "PIL")),
        ("backend.server.app", HEAVY),
        ("backend.vision.encoders.base", ("torch", "ultralytics", "open_clip", "skimage")),
    ],
)
def test_an_import_loads_nothing_heavy(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(unwanted) & set(done.stdout.split()) == set()


def test_a_connection_to_label_studio_loads_only_a_part_of_its_sdk() -> None:
    """All of it takes 3 s and 190 MB in every worker and in every command."""
    code = (
        "import sys; from backend.label_studio.api_session import ApiSession;"
        "ApiSession('http://127.0.0.1:1', '0' * 40); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "label_studio_sdk.core.client_wrapper" in loaded
    assert {"pandas", "numpy", "boto3", "label_studio_sdk.client"} & loaded == set()


def test_the_ready_labeling_configs_have_only_served_controls() -> None:
    from backend.label_studio.labeling_config import read_config

    files = sorted((REPOSITORY_ROOT / "label_config").glob("*.xml"))
    assert len(files) >= 3
    for file in files:
        config = read_config(file.read_text())
        assert config.controls, file
        assert not config.unserved, file


def test_tests_and_benchmarks_import_from_tests_support_only() -> None:
    """Helpers live in tests/support, fixtures in conftest.py: each test file stands alone."""
    wrong = [
        f"{file.relative_to(REPOSITORY_ROOT)} imports {name}"
        for folder in ("tests", "benchmarks")
        for file in sorted((REPOSITORY_ROOT / folder).rglob("*.py"))
        for name in imported_names(file)
        if name.split(".")[0] == "tests" and name.split(".")[1:2] != ["support"]
    ]
    assert wrong == []


def imported_names(file: Path) -> list[str]:
    """Every module a file imports, as ``package.name`` where a package's content is imported."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names
