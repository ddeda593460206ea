"""``prelabel status`` reports the API's figures without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.card_records import SINGLE_LABEL_NOTE
from backend.cli.main import main
from backend.dashboard.page_reader import DashboardReader
from backend.json_records import to_json
from backend.label_studio.local_server import find_free_port
from backend.settings import read_settings
from backend.store.captures import Capture, CaptureStore
from backend.store.files import write_json
from backend.store.projects import ProjectStore
from backend.store.served_address import save_served_address
from backend.store.versions import VersionStore
from tests.support.dashboard_homes import make_project_status
from tests.support.published_models import publish_version, train_colour_model

FIGURE = {"n": 20, "value": 0.9, "low": 0.7, "high": 0.97, "metric": "accuracy"}
NOTHING = {"n": 0, "value": None, "low": 0.0, "high": 1.0, "metric": "recall"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project with a live version, a held one, a forecast, and captured images."""
    version = publish_version(tmp_path, "1", *train_colour_model(), title="leaves")
    folder = ProjectStore(tmp_path).folder("1")
    versions = VersionStore(folder)
    card = {
        **to_json(versions.card(version)),
        "audit": FIGURE,
        "estimate": FIGURE | {"metric": "accuracy by cross-validation"},
        "outlook": {
            "sentence": "95% is not within reach.",
            "labels": [{"label": "blue", "more": 40}],
        },
        "controls": {
            "colour": {
                "kind": "linear head",
                "audit": FIGURE,
                "examples": {"red": 12, "blue": 3},
                "figures": {
                    "labels": {
                        "red": {"precision": FIGURE, "recall": FIGURE | {"value": 0.8}},
                        "blue": {"precision": NOTHING, "recall": NOTHING},
                    }
                },
            }
        },
    }
    write_json(versions.path(version) / "card.json", card)
    held = {"version": "v1-0badbad0", "reason": "Held back: it is worse."}
    counts = {"tasks": 60, "labels": 35, "waiting": 3, "held": held, "versions": [version]}
    left_out = {"rotated box": 2, "submitted without a choice for colour": 2}
    write_json(folder / "summary.json", counts | {"left_out": left_out, "unanswered": [5, 8]})
    doubt = {"given": "red", "suggested": "blue", "why": "it looks like others", "quality": 0.1}
    suspects = [{"task": task, **doubt} for task in (4, 9)]
    write_json(folder / "suspects.json", {"suspects": suspects})
    captures = CaptureStore(folder)
    for number, why in enumerate(("uncertain", "uncertain", "rare")):
        captures.add(Capture(f"c{number}", float(number), why, version), b"image")
    return tmp_path


def status(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *more: str) -> str:
    monkeypatch.setenv("PRELABEL_HOME", str(home))
    nobody = f"http://127.0.0.1:{find_free_port()}"
    assert main(["status", "--backend", nobody, *more]) == 0
    return str(capsys.readouterr().out)


READ = """
1 leaves (http://localhost:8080)
35 of 60 tasks labeled, 3 of them new since the last version
live: v0-b447b15e, on the audit set accuracy 90% (70% to 97%, 20 images)
v1-0badbad0 is not live. Held back: it is worse.
95% is not within reach.
Most helpful labels: about 40 more of blue.
colour (linear head)
label examples precision recall
red 12 90% (70% to 97%, n = 20) 80% (70% to 97%, n = 20)
blue 3 – –
captured by the endpoint: 3 images (2 uncertain, 1 rare), 0 of them imported as tasks
labels to check: 2 (`prelabel label-errors 1`)
left out: 2 × rotated box
left out: 2 × submitted without a choice for colour
choose a label in Label Studio and press Update: task 5, 8
"""
EARLY = "live: v0-b447b15e, on the audit set too early to tell (3 of 10); estimated 90%"


def test_status_is_readable_in_a_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = status(home, monkeypatch, capsys)
    assert [" ".join(line.split()) for line in told.splitlines()] == READ.strip().splitlines()
    assert max(map(len, told.splitlines())) <= 100


def test_a_figure_on_three_audit_images_is_not_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = VersionStore(ProjectStore(home).folder("1"))
    card = versions.live_card()
    assert card is not None
    few = {"n": 3, "value": 1.0, "low": 0.4, "high": 1.0, "metric": "accuracy"}
    write_json(versions.path(card.version) / "card.json", to_json(card) | {"audit": few})
    told = status(home, monkeypatch, capsys)
    assert EARLY in told
    assert "Audit set: 3 of the 10 audit images needed are labeled." in told
    assert "accuracy by cross-validation: 90% (70% to 97%, 20 images)" in told
    assert "100%" not in told
    (project,) = json.loads(status(home, monkeypatch, capsys, "--json"))["projects"]
    assert project["audit"] == few, "programs read the figure with its interval"
    assert main(["versions", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "too early to tell (3 of 10); estimated 90%" in line
    assert len(line) <= 100


def test_json_output_has_the_same_figures(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project,) = json.loads(status(home, monkeypatch, capsys, "--json"))["projects"]
    assert project["audit"] == FIGURE
    assert (project["labels"], project["waiting"], project["tasks"]) == (35, 3, 60)
    assert project["held"]["version"] == "v1-0badbad0"
    assert project["captured"] == {
        "images": 3,
        "tasks": 0,
        "why": {"uncertain": 2, "rare": 1},
    }
    labels = project["controls"]["colour"]["labels"]
    assert labels["red"] == {
        "examples": 12,
        "precision": FIGURE,
        "recall": FIGURE | {"value": 0.8},
    }


def test_confidence_is_qualified_while_only_one_label_has_examples(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert SINGLE_LABEL_NOTE not in status(home, monkeypatch, capsys)
    versions = VersionStore(ProjectStore(home).folder("1"))
    file = versions.path(str(versions.live())) / "card.json"
    card = json.loads(file.read_text())
    card["controls"]["colour"]["examples"] = {"red": 12, "blue": 0}
    write_json(file, card)
    assert SINGLE_LABEL_NOTE in status(home, monkeypatch, capsys)
    folder = home / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    assert main(["predict", str(folder), "--project", "1", "--output", str(home / "drawn")]) == 0
    assert SINGLE_LABEL_NOTE in capsys.readouterr().out


def test_a_project_without_a_version_shows_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ProjectStore(tmp_path).register("http://localhost:8080", 7)
    assert "live: none yet; `prelabel serve`" in status(tmp_path, monkeypatch, capsys)


def test_a_version_without_a_model_is_said_to_predict_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = VersionStore(ProjectStore(home).folder("1"))
    card = versions.live_card()
    assert card is not None
    advice = "No detector finds ant yet. Optional: an open-vocabulary network suggests objects."
    controls = {"ants": {"kind": "none yet", "examples": {"ant": 0}, "advice": advice}}
    write_json(versions.path(card.version) / "card.json", {**to_json(card), "controls": controls})
    told = status(home, monkeypatch, capsys)
    assert f"live: {card.version}, which cannot predict your labels yet" in told
    assert advice in told
    assert status(home, monkeypatch, capsys, "1") == told, "with and without its number"


def test_captures_in_another_home_folder_are_counted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The endpoint may write to another home folder, as on Modal."""
    kept = tmp_path / "kept"
    monkeypatch.setenv("PRELABEL_KEPT", str(kept))
    ProjectStore(home, kept).captures("1").add(Capture("c", 1.0, "rare", "v0-x"), b"image")
    (project,) = json.loads(status(home, monkeypatch, capsys, "--json"))["projects"]
    assert (project["captured"]["images"], project["captured"]["why"]) == (1, {"rare": 1})
    settings = read_settings()
    page = DashboardReader(
        settings.home, settings.label_studio_url, settings.endpoint_data_dir
    ).page(make_project_status(1))
    assert page.captures_waiting == 1


def test_a_damaged_project_is_reported_beside_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ProjectStore(home).register("http://localhost:8080", 7)
    for name in ("project.json", "project.json.backup"):
        (ProjectStore(home).folder(other.id) / name).write_text("{")
    told = status(home, monkeypatch, capsys)
    assert "leaves" in told
    assert "7/project.json is damaged" in told


def test_the_address_of_serve_may_be_any_host_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only an address that Label Studio calls needs a dot."""
    monkeypatch.setenv("PRELABEL_HOME", str(home))
    save_served_address(home, "http://nobody:9090")
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("1  leaves")
