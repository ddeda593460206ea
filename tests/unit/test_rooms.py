"""The folder tree is the architecture: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = {"domain", "errors"}
MAY_KNOW: dict[str, set[str]] = {
    "domain": set(),
    "errors": set(),
    "settings": set(),
    "store": set(),
    "learning": set(),
    "vision": set(),
    "connecting": set(),
    "web": {"connecting"},
    "label_studio": {"web"},
    "loop": {"settings", "store", "learning", "vision", "label_studio", "web"},
    "starting": {"settings", "store", "learning", "label_studio", "vision"},
    "dashboard": {"store", "learning"},
    "server": {"settings", "store", "label_studio", "loop", "dashboard"},
    "demo": {"learning"},
    "doctor": {"settings", "store", "vision", "label_studio", "loop", "web"},
    "cli": {
        *("settings", "store", "label_studio", "loop", "server", "dashboard", "demo", "doctor"),
        "starting",
    },
}
OWNERS = {
    "ultralytics": {
        "backend/vision/ultralytics_models.py",
        "backend/vision/detection/ultralytics_trainer.py",  # subclasses of its trainer
    },
    "open_clip": {"backend/vision/encoders/clip.py"},
    "openvino": {"backend/vision/runtime/openvino_runner.py"},
    "label_studio_sdk": {"backend/label_studio/api_session.py"},
    "label_studio_ml": {"backend/server/stock.py"},
    "cleanlab": {"backend/learning/label_errors.py"},
    "sqlite3": {"backend/vision/encoders/embedding_cache.py"},
    "fastapi": {"backend/server/app.py", "backend/server/dashboard_routes.py"},
    "jinja2": {"backend/dashboard/rendering.py"},
}
HEAVY = (
    *("torch", "ultralytics", "open_clip", "skimage", "scipy", "label_studio_sdk", "numpy"),
    *("cleanlab", "sklearn", "pandas"),
)


def imports() -> Iterator[tuple[Path, str]]:
    for file in sorted((ROOT / "backend").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file.relative_to(ROOT), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file.relative_to(ROOT), node.module


def test_arrows_between_the_rooms_go_one_way() -> None:
    wrong = []
    for file, name in imports():
        if not name.startswith("backend."):
            continue
        room, known = file.parts[1].removesuffix(".py"), name.split(".")[1]
        if room != known and known not in SHARED | MAY_KNOW.get(room, set()):
            wrong.append(f"{file} imports {name}")
    assert wrong == []


def test_every_outside_thing_has_one_owner() -> None:
    wrong = [
        f"{file} imports {name}"
        for file, name in imports()
        if str(file) not in OWNERS.get(name.split(".")[0], {str(file)})
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("backend.cli.main", (*HEAVY, "fastapi", "httpx", "uvicorn", "PIL")),
        ("backend.server.app", HEAVY),
        ("backend.vision.encoders.base", ("torch", "ultralytics", "open_clip", "skimage")),
    ],
)
def test_importing_loads_nothing_heavy(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(unwanted) & set(done.stdout.split()) == set()


def test_the_ready_labeling_configs_are_served() -> None:
    from backend.label_studio.labeling_config import read_config

    files = sorted((ROOT / "label_config").glob("*.xml"))
    assert len(files) >= 3
    for file in files:
        config = read_config(file.read_text())
        assert config.controls, file
        assert not config.unserved, file
