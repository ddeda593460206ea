"""``prelabel predict``: the endpoint's own answers for files, drawn or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backend.cli.main import main
from backend.inference.model import Model
from tests.support.drawings import SHAPE_LABELS, make_drawings
from tests.support.published_models import (
    COLOUR_CONTROL,
    make_image,
    publish_version,
)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two coloured images, and two with things drawn on them."""
    files = [tmp_path / f"{name}.png" for name in ("red", "blue", "things", "more")]
    shown = [make_image("red", 900, 200), make_image("blue", 901, 90)]
    shown += [one.image for one in make_drawings(2, 77, *SHAPE_LABELS)]
    for file, image in zip(files, shown, strict=True):
        image.save(file)
    return files


@pytest.fixture
def predict(
    published_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs the command; exit status, figures (with --json) or text, and errors."""
    monkeypatch.setenv("PRELABEL_HOME", str(published_home))

    def run(*arguments: str | Path) -> tuple[int, Any, str]:
        status = main(["predict", *map(str, arguments)])
        told, errors = capsys.readouterr()
        as_json = "--json" in arguments
        return status, json.loads(told) if as_json and told else told, errors

    return run


def test_pictures_are_saved_beside_the_images_or_in_a_folder(
    predict: Any, images: list[Path], tmp_path: Path
) -> None:
    status, told, _ = predict(images[0], images[1], "--project", "colours")
    assert status == 0
    assert f"{images[0]}: red 9" in told
    assert (tmp_path / "red-prelabel.jpg").is_file()
    status, _, _ = predict(tmp_path, "--project", "3", "--output", tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == [f"{n}-prelabel.jpg" for n in ("blue", "more", "red", "things")], (
        "of a folder all images, but none that was drawn before"
    )
    with Image.open(tmp_path / "out" / "things-prelabel.jpg") as saved:
        assert max(saved.size) >= 320


def test_files_of_one_name_do_not_overwrite_each_other(
    predict: Any, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "red.png"
    twin.write_bytes(images[1].read_bytes())
    _, told, _ = predict(images[0], twin, "--project", "1", "--output", tmp_path / "o", "--json")
    saved = [Path(result["saved"]).name for result in told["results"]]
    assert saved == ["red-prelabel.jpg", "red-2-prelabel.jpg"]


@pytest.mark.parametrize("project", ["1", "2", "3", "4", "5"])
def test_the_answers_are_those_of_the_endpoint(
    predict: Any, images: list[Path], published_home: Path, project: str
) -> None:
    from fastapi.testclient import TestClient

    from backend.endpoint.assembly import create_endpoint
    from backend.settings import Settings

    _, told, _ = predict(*images, "--function", project, "--json")
    with TestClient(create_endpoint(Settings(home=published_home), allow_anonymous=True)) as http:
        for file, result in zip(images, told["results"], strict=True):
            path = f"/v1/functions/{project}/invoke"
            answer = http.post(path, content=file.read_bytes()).json()
            assert answer["version"] == told["version"]
            assert "saved" not in result
            for key in result.keys() - {"image"}:
                assert result[key] == answer[key]


def test_a_bad_file_is_one_sentence_and_costs_no_other(
    predict: Any, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:400])
    bad = [tmp_path / name for name in ("text.png", "cut.png", "missing.png")]
    status, told, errors = predict(images[0], *bad, images[1], "--project", "1", "--json")
    assert status == 1
    assert [("error" in result) for result in told["results"]] == [False, True, True, True, False]
    lines = [line for line in errors.splitlines() if line.startswith("prelabel: ")]
    assert len(lines) == 3
    assert all(str(file) in line for file, line in zip(bad, lines, strict=True))


def test_a_project_that_learned_nothing_and_an_empty_folder_are_one_sentence(
    predict: Any, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_version(tmp_path / "young", "1", Model({}, controls=(COLOUR_CONTROL,)))
    (tmp_path / "empty").mkdir()
    status, told, errors = predict(tmp_path / "empty", "--project", "1")
    assert (status, told) == (2, "")
    assert "There is no image in" in errors
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path / "young"))
    status, told, errors = predict(images[0])
    assert (status, told) == (2, "")
    assert "No model is trained yet: label a few images first." in errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--project", "9"), "Which project is '9'?"),
        ((), "Which project?"),
        (("--project", "1", "--version", "v7-00000000"), "There is no version 'v7-00000000'"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    predict: Any, images: list[Path], arguments: tuple[str, ...], sentence: str
) -> None:
    status, _, errors = predict(images[0], *arguments)
    assert status == 1
    assert sentence in errors
