"""Commands that choose a project or a version of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backend.cli.main import main
from backend.cli.projects import find_version
from backend.errors import NotFoundError, UsageError
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
    with pytest.raises(UsageError, match="Several versions start with 'v1': v11-"):
        find_version(versions, "v1")
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
