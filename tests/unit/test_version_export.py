"""An exported version runs where nothing of this project is, and says what the project says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.cli.main import main
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore
from tests.support.drawings import SHAPE_LABELS, make_drawings
from tests.support.published_models import make_image

SURE = 0.02
"""Confidence may differ so much: the project's own runtime may compute in half precision."""
NEAR = 0.01
"""And places, of the image's edge."""
TIED, OBJECT = 0.01, 0.2
"""Finds of one object that are as good as each other: either may be the one that stays."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place to import from that has numpy, pillow and onnxruntime, and what these need."""
    place = tmp_path_factory.mktemp("packages")
    wanted = ["numpy", "pillow", "onnxruntime"]
    wanted += [
        line.split(";")[0].split("[")[0].strip(" <>=!~.0123456789")
        for line in requires("onnxruntime") or []
        if "extra ==" not in line
    ]
    for name in wanted:
        found = distribution(name)
        tops = {Path(str(file)).parts[0] for file in found.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(found.locate_file(top))))
    return place


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of several shapes; one lies on its side by EXIF, one is large."""
    folder = tmp_path_factory.mktemp("images")
    shown = [make_image("red", 900, 200), make_image("blue", 901, 90)]
    shown += [one.image for one in make_drawings(3, 77, *SHAPE_LABELS)]
    shown += [shown[2].resize((1800, 1350)), shown[3].resize((90, 160))]
    files = [folder / f"{number}.png" for number in range(len(shown))]
    for file, image in zip(files, shown, strict=True):
        image.save(file)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = folder / "turned.jpg"
    shown[2].save(turned, quality=95, exif=exif)
    return [*files, turned]


def prelabel(published_home: Path, *arguments: str | Path, capsys: Any) -> Any:
    """The command's figures."""
    os.environ["PRELABEL_HOME"] = str(published_home)
    try:
        status = main([*map(str, arguments), "--json"])
    finally:
        del os.environ["PRELABEL_HOME"]
    told = capsys.readouterr()
    assert status == 0, told.err
    return json.loads(told.out.splitlines()[-1])


def live(published_home: Path, project: str) -> str:
    return str(VersionStore(ProjectStore(published_home).folder(project)).live())


def run_alone(program: Path, alone: Path, images: list[Path], folder: Path) -> list[Any]:
    """What the program prints, in an empty folder, with nothing else to import."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-S", str(program), *map(str, images)],
        cwd=folder,
        env={"PYTHONPATH": str(alone), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("project", "name"), [("1", "colour"), ("2", "tags"), ("5", "colour")])
def test_the_example_gives_the_labels_that_predict_gives(
    published_home: Path,
    alone: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    project: str,
    name: str,
) -> None:
    folder = tmp_path / "model"
    told = prelabel(
        published_home, "export", live(published_home, project), "--output", folder, capsys=capsys
    )
    assert {"README.md", "encoder.onnx", "example.py", "model.json"} <= set(told["files"])
    ours = prelabel(published_home, "predict", *images, "--project", project, capsys=capsys)[
        "results"
    ]
    theirs = run_alone(folder / "example.py", alone, images, tmp_path / "empty")
    for mine, other in zip(ours, theirs, strict=True):
        mine = mine.get("controls", {}).get(name, mine)
        expected = {row["labelName"]: row["confidence"] for row in mine["labelConfidences"]}
        assert other[name]["confidence"] == pytest.approx(expected, abs=SURE)
        several = project == "2"
        given = {row["labelName"] for row in mine["labels"]} if several else {mine["labelName"]}
        assert set(other[name]["labels"]) == given


def test_the_example_leaves_out_what_is_not_certain_enough_to_be_shown(
    published_home: Path,
    alone: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    prelabel(published_home, "export", live(published_home, "1"), "--output", folder, capsys=capsys)
    facts = json.loads((folder / "model.json").read_text())
    assert facts["controls"][0]["shown"] == {"red": 0.0, "blue": 0.0}
    facts["controls"][0]["shown"] = {"red": 1.01, "blue": 0.0}
    (folder / "model.json").write_text(json.dumps(facts))
    told = run_alone(folder / "example.py", alone, images[:2], tmp_path / "empty")
    assert [row["colour"]["labels"] for row in told] == [[], ["blue"]]


@pytest.mark.parametrize(
    ("project", "name", "program"),
    [
        ("3", "things", "example.py"),
        ("4", "centres", "example.py"),
        ("5", "things", "example_regions.py"),
    ],
)
def test_the_example_finds_what_predict_finds(
    published_home: Path,
    alone: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    project: str,
    name: str,
    program: str,
) -> None:
    folder = tmp_path / "model"
    prelabel(
        published_home, "export", live(published_home, project), "--output", folder, capsys=capsys
    )
    ours = prelabel(published_home, "predict", *images, "--project", project, capsys=capsys)[
        "results"
    ]
    theirs = run_alone(folder / program, alone, images, tmp_path / "empty")
    for mine, other in zip(ours, theirs, strict=True):
        mine = mine.get("controls", {}).get(name, mine)
        expected = [_row(row) for row in mine["predictions"] if row["confidence"] > 0.1]
        for label, confidence, place in expected:
            near = [row for row in other[name] if _near(row, label, confidence, place)]
            assert near, (label, confidence, place, other[name])
        sure = [row for row in other[name] if row["confidence"] > 0.1 + SURE]
        assert len(sure) <= len(expected)
    assert sum(len(row[name]) for row in theirs) >= 10


def _row(row: Any) -> tuple[str, float, list[float]]:
    if "center" in row:
        return row["labelName"], row["confidence"], [row["center"]["x"], row["center"]["y"]]
    x, y, w, h = (row["boundingBox"][key] for key in ("x", "y", "width", "height"))
    return row["labelName"], row["confidence"], [x, y, x + w, y + h]


def _near(row: Any, label: str, confidence: float, place: list[float]) -> bool:
    """The same find; or, of finds of one object that are as good as each other, another one."""
    there = np.array(row["box"] if len(place) == 4 else row["centre"])
    apart = float(np.abs(there - place).max())
    told = abs(row["confidence"] - confidence)
    return row["label"] == label and (
        (told < SURE and apart < NEAR) or (told < TIED and apart < OBJECT)
    )


def test_the_facts_are_those_of_the_version(
    published_home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "model"
    version = live(published_home, "5")
    prelabel(published_home, "export", version, "--output", folder, capsys=capsys)
    facts = json.loads((folder / "model.json").read_text())
    assert (facts["version"], facts["labels"]) == (version, {"train": 24, "audit": 0})
    colour, things = facts["controls"]
    assert (colour["labels"], colour["multiple"]) == (["red", "blue"], False)
    assert (things["labels"], things["size"], things["shown"]) == (["disc", "square"], 160, 0.03)
    readme = (folder / "README.md").read_text()
    assert version in readme
    assert "python example.py IMAGE..." in readme
    assert "python example_regions.py IMAGE..." in readme
    assert str(published_home) not in readme + json.dumps(facts)


def test_what_is_in_the_way_is_one_sentence(
    published_home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRELABEL_HOME", str(published_home))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert main(["export", live(published_home, "1"), "--output", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", "v9-nothing", "--output", str(tmp_path / "new")]) == 1
    assert (
        "There is no version 'v9-nothing'. Live versions: colours: v0-" in capsys.readouterr().err
    )
    assert not (tmp_path / "new").exists()


def test_a_version_of_several_projects_needs_the_name_of_one(
    published_home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, version = tmp_path / "home", live(published_home, "1")
    shutil.copytree(published_home / "projects" / "1", home / "projects" / "1")
    shutil.copytree(home / "projects" / "1", home / "projects" / "8")
    record_file = home / "projects" / "8" / "project.json"
    record = json.loads(record_file.read_text()) | {"id": "8", "number": 8, "title": "copied"}
    record_file.write_text(json.dumps(record))
    monkeypatch.setenv("PRELABEL_HOME", str(home))
    assert main(["export", version]) == 2
    message = f"Several projects have {version}: 1 (colours), 8 (copied). Choose one with --project"
    assert message in capsys.readouterr().err
    assert main(["export", version, "--project", "9"]) == 1
    assert "Which project is '9'?" in capsys.readouterr().err
    assert main(["export"]) == 2
    assert "Which version?" in capsys.readouterr().err
    (tmp_path / "full" / "thesis").mkdir(parents=True)
    full = str(tmp_path / "full")
    assert main(["export", version, "--project", "copied", "--output", full]) == 2
    assert "is not empty" in capsys.readouterr().err
