"""``prelabel keys``: whom a key is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.cli.main import main
from backend.store.api_keys import ApiKeyStore
from backend.store.projects import ProjectStore


@pytest.fixture
def keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs the command; exit status, and what it prints."""
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))

    def run(*words: str) -> tuple[int, str, str]:
        return main(["keys", *words]), *capsys.readouterr()

    return run


def test_a_key_is_for_a_project_by_its_number_or_title_and_for_none_that_is_not_there(
    keys: Any, tmp_path: Path
) -> None:
    projects = ProjectStore(tmp_path)
    for number, title in ((3, "Roses"), (4, "Tulips")):
        record = projects.register("http://127.0.0.1:8080", number)
        projects.set_title(record.id, title)
    status, told, _ = keys("create", "app", "--function", "Roses", "--function", "3")
    assert (status, told[:4]) == (0, "plk_")
    assert "connected yet" not in told
    status, told, errors = keys("create", "app", "--function", "Rosse")
    assert (status, told) == (1, "")
    assert "Which project is 'Rosse'? Connected here: 3 (Roses), 4 (Tulips)." in errors
    assert [key.functions for key in ApiKeyStore(tmp_path).all()] == [("3",)]


def test_a_key_may_be_made_before_the_project_is_connected(keys: Any, tmp_path: Path) -> None:
    status, told, _ = keys("create", "app", "--function", "3")
    assert (status, told[:4]) == (0, "plk_")
    assert "No project is connected yet: the key will be valid for projects with the id 3." in told
    assert [key.functions for key in ApiKeyStore(tmp_path).all()] == [("3",)]
