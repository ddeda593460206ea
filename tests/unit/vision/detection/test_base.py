"""Which file fine-tuning starts from, and what is said about it, when."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.vision.detection.base_weights import choose_base_weights
from backend.vision.detection.network import DEFAULT_WEIGHTS, SMALL_NETWORK_FILE


def test_what_is_on_disk_is_taken_and_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_WEIGHTS).touch()
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == tmp_path / DEFAULT_WEIGHTS
    assert said == [f"Detector: {tmp_path / DEFAULT_WEIGHTS}, found on disk."]


def test_without_internet_the_small_network_is_taken_and_the_better_one_named(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == SMALL_NETWORK_FILE
    (line,) = said
    assert "trained from scratch" in line
    assert f"curl -fL -o {tmp_path / DEFAULT_WEIGHTS} https://" in line, (
        "a page of errors is not kept"
    )


def test_what_is_fetched_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something answers at the address, and then the file cannot be had after all."""
    monkeypatch.setattr("backend.vision.hub.is_url_reachable", lambda address: True)
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == SMALL_NETWORK_FILE
    before, after = said
    assert f"fetching {DEFAULT_WEIGHTS} once from https://github.com (5 MB" in before
    assert "PRELABEL_DETECTOR=builtin needs no download" in before
    assert "cannot be downloaded" in after


def test_nothing_is_fetched_for_the_builtin_network(tmp_path: Path) -> None:
    said: list[str] = []
    assert choose_base_weights("builtin", tmp_path, said.append).path == SMALL_NETWORK_FILE
    assert said == []
