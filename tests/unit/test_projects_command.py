"""Commands that choose a project or a version of it."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from backend.cli.main import COMMANDS, main, make_parser
from backend.cli.projects import find_project, find_version
from backend.errors import NotFoundError, UsageError
from backend.label_studio import project_names
from backend.settings import Settings
from backend.store.projects import ProjectStore
from backend.store.versions import VersionStore
from tests.support.dashboard_homes import make_full_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    make_full_home(tmp_path, versions=12)
    return tmp_path


def test_a_version_is_found_by_the_start_of_its_name(home: Path) -> None:
    versions = VersionStore(home / "projects" / "1")
    assert find_version(versions, "v5") == "v5-0123abcd"
    assert find_version(versions, "v5-0123abcd") == "v5-0123abcd"
    assert find_version(versions, "v1") == "v1-0123abcd"
    with pytest.raises(UsageError, match="Several versions start with 'v': v11-"):
        find_version(versions, "v")
    with pytest.raises(NotFoundError, match="v99"):
        find_version(versions, "v99")


def test_projects_are_sorted_by_number(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path)
    for number in (10, 2, 1):
        projects.register("http://127.0.0.1:9", number)
    assert [record.id for record in projects.all()] == ["1", "2", "10"]


def test_a_forgotten_project_is_gone_and_the_others_stay(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ProjectStore(home).register("http://127.0.0.1:9", 2)
    assert main(["forget", "1", "--json"]) == 2, "a script has to say --yes"
    assert (home / "projects" / "1").is_dir()
    capsys.readouterr()
    assert main(["forget", "1", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"project": "1", "removed": True}
    assert [record.id for record in ProjectStore(home).all()] == ["2"]


def test_a_reader_that_has_enough_causes_no_traceback(home: Path) -> None:
    command = f"{sys.executable} -m backend.cli versions 1 --json | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


REQUIRED_ARGUMENTS = {
    "promote": ["v1"],
    "similar": ["7"],
    "import": ["labels"],
    "predict": ["a.jpg"],
    "rename": ["pants", "trousers"],
}
"""Command → its arguments besides the project."""


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_takes_the_project_in_the_same_way(command: str) -> None:
    parser = make_parser()
    required = REQUIRED_ARGUMENTS.get(command, [])
    if not hasattr(parser.parse_args([command, *(required or keys_action(command))]), "project"):
        return
    for words, project in (
        ([], ""),
        (["--project", "Roses"], "Roses"),
        (["--project=3"], "3"),
    ):
        assert parser.parse_args([command, *required, *words]).project == project
        assert parser.parse_args([command, *words, *required]).project == project
    if command in ("predict", "export"):  # their arguments are images, or a version
        return
    before = command in ("import", "rename")  # their other arguments may be long, or are two
    words = ["Roses", *required] if before else [*required, "Roses"]
    assert parser.parse_args([command, *words]).project == "Roses"


def keys_action(command: str) -> list[str]:
    return ["list"] if command == "keys" else []


def test_a_project_is_found_by_number_title_or_start_of_its_title(tmp_path: Path) -> None:
    projects = ProjectStore(tmp_path)
    for number, title in ((3, "Roses"), (4, "Tulips"), (5, "Tulips 2024"), (6, "30 apples")):
        projects.set_title(projects.register("http://127.0.0.1:9", number).id, title)
    settings = Settings(home=tmp_path)
    for text, number in (("3", 3), ("ro", 3), ("Tulips", 4), ("tulips 2", 5), ("30 a", 6)):
        assert find_project(settings, text).number == number
    for text in ("tul", "30", "", "oses"):
        with pytest.raises(NotFoundError, match=r"Connected here: 3 \(Roses\), 4 \(Tulips\)"):
            find_project(settings, text)
    assert not doctest.testmod(project_names).failed
