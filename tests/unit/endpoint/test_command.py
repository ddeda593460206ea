"""``prelabel endpoint`` as a process: who may send requests, and how it reports that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.store.api_keys import ApiKeyStore
from tests.support.harness import EndpointServer


@contextmanager
def running(home: Path) -> Iterator[EndpointServer]:
    """Run the command over a home folder."""
    app = EndpointServer(home, {})
    try:
        yield app
    finally:
        app.stop()


@pytest.mark.parametrize(
    ("made", "revoked", "says", "status"),
    [
        (0, 0, "No API key is required until the first one is created. ", 200),
        (1, 1, "All requests are refused because every API key is revoked. ", 401),
        (3, 1, "API keys: 2 active. ", 401),
    ],
)
def test_the_printed_access_rule_is_the_one_in_force(
    tmp_path: Path, made: int, revoked: int, says: str, status: int
) -> None:
    home = tmp_path / "home"
    keys = [ApiKeyStore(home).create(f"key {number}")[0] for number in range(made)]
    for key in keys[:revoked]:
        ApiKeyStore(home).revoke(key.id)
    with running(home) as app:
        assert app.http.get("/v1/functions").status_code == status
        assert says in app.log.read_text()
        ApiKeyStore(home).create("late")
        assert app.http.get("/v1/functions").status_code == 401


def test_a_home_has_one_endpoint_and_a_killed_one_releases_it(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "backend.cli", "endpoint", "--port", "0"]
    environment = {**os.environ, "PRELABEL_HOME": str(home)}
    killed = EndpointServer(home, {})
    try:
        second = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert f"Another endpoint uses {home}: stop it" in second.stderr
        assert killed.http.get("/health").status_code == 200
    finally:
        killed.stop(signal.SIGKILL)
    with running(home) as app:
        assert app.http.get("/health").status_code == 200
