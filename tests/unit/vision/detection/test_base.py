"""Which file fine-tuning starts from, and what is said about it, when."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.vision.detection.base_weights import choose_base_weights
from backend.vision.detection.network import DEFAULT_WEIGHTS, SMALL_NETWORK_FILE


def test_weights_on_disk_are_used_without_a_download(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_WEIGHTS).touch()
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == tmp_path / DEFAULT_WEIGHTS
    assert said == [f"Detector: {tmp_path / DEFAULT_WEIGHTS}, found on disk."]


def test_without_internet_the_small_network_is_used_and_the_log_explains_the_download(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == SMALL_NETWORK_FILE
    (line,) = said
    assert "trained from scratch" in line
    assert f"curl -fL -o {tmp_path / DEFAULT_WEIGHTS} https://" in line, (
        "a page of errors is not kept"
    )


def test_a_download_is_logged_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something answers at the address, and then the file cannot be had after all."""
    monkeypatch.setattr("backend.vision.hub.is_url_reachable", lambda address: True)
    said: list[str] = []
    assert choose_base_weights("auto", tmp_path, said.append).path == SMALL_NETWORK_FILE
    before, after = said
    assert f"downloading {DEFAULT_WEIGHTS} once from https://github.com (5 MB" in before
    assert "PRELABEL_DETECTOR=builtin needs no download" in before
    assert "cannot be downloaded" in after


def test_the_builtin_network_needs_no_download(tmp_path: Path) -> None:
    said: list[str] = []
    assert choose_base_weights("builtin", tmp_path, said.append).path == SMALL_NETWORK_FILE
    assert said == []
