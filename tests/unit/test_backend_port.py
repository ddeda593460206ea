"""The port of the backend: where it serves without --port, and what is said if it is taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.label_studio.local_server import find_free_port
from backend.onboarding.backend_connection import PendingConnections
from backend.onboarding.backend_port import default_backend_url, registered_port
from backend.onboarding.managed_label_studio import LocalAccount, ManagedLabelStudio
from backend.settings import read_settings
from backend.store.record_files import write_record
from backend.store.served_address import read_served_address, save_called_port, save_served_address
from tests.support.cli import run_prelabel
from tests.support.harness import make_png
from tests.support.terminal import Terminal

SERVER = "http://127.0.0.1:9"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which a program listens that is no web server."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_the_port_is_checked_before_label_studio_is_created(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(make_png("red", 1))
    home = tmp_path / "home"
    backend = ("--backend", f"http://127.0.0.1:{taken_port}", "--host", "127.0.0.1")
    done = run_prelabel(
        *("init", str(tmp_path / "photos"), "--start-label-studio", "--serve", *backend),
        PRELABEL_HOME=str(home),
    )
    assert done.returncode == 1
    assert f"Another program uses port {taken_port}" in done.stderr
    assert f"--backend http://127.0.0.1:{taken_port + 101}" in done.stderr
    assert not ManagedLabelStudio(home).folder.exists()


def test_serve_checks_its_port_before_it_starts_label_studio(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    own = ManagedLabelStudio(tmp_path)
    write_record(own.account_file, LocalAccount(find_free_port()), private=True)
    done = run_prelabel("serve", "--port", str(taken_port), PRELABEL_HOME=str(tmp_path))
    assert done.returncode == 1
    assert f"Another program uses port {taken_port}" in done.stderr
    assert not (own.folder / "studio.log").exists()


def test_serve_listens_on_the_port_that_label_studio_called(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    port = url.rpartition(":")[2]
    environment = {"PRELABEL_HOME": str(tmp_path), "LABEL_STUDIO_URL": SERVER}
    terminal = Terminal(["serve", "--port", port], environment)
    terminal.wait_for(f"Prelabel listens at {url}")
    terminal.wait_for(f"open the dashboard: {url} (no project is connected yet)")
    terminal.wait_for("To connect a project, run `prelabel connect PROJECT`")
    setup = {"project": "1.5", "schema": "<View/>", "hostname": SERVER}
    wait_for_health(terminal, url)
    assert httpx.post(f"{url}/setup", json=setup, trust_env=False).status_code == 200
    stop(terminal)

    terminal = Terminal(["serve"], environment)
    terminal.wait_for(f"Prelabel listens at {url}")
    terminal.wait_for(f"open the dashboard: {url} (1 project is connected)")
    assert "To connect a project" not in stop(terminal)

    terminal = Terminal(["serve", "--port", "0"], environment)
    terminal.wait_for(f"Connected projects call port {port}")
    stop(terminal)
    assert default_backend_url(read_settings(environment)) == url


def wait_for_health(terminal: Terminal, url: str) -> None:
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(transport=transport) as client:
        assert client.get(f"{url}/health", timeout=60).status_code == 200


def stop(terminal: Terminal) -> str:
    """Press Ctrl-C, and return what was printed before the closing line."""
    terminal.type("\x03")
    end = terminal.wait_for("Stopped. Labels and versions are kept; run `prelabel serve` to go on.")
    assert "Traceback" not in end
    assert terminal.wait_for_exit() == 130
    return end


def test_a_registered_project_is_served_on_its_port(tmp_path: Path) -> None:
    settings = read_settings({"PRELABEL_HOME": str(tmp_path), "LABEL_STUDIO_URL": SERVER})
    assert registered_port(settings) == 9090
    save_called_port(tmp_path, 9292)
    save_served_address(tmp_path, "http://127.0.0.1:9393")  # --port was used once
    assert (registered_port(settings), read_served_address(tmp_path)) == (
        9292,
        "http://127.0.0.1:9393",
    )
    pending = PendingConnections(tmp_path)
    pending.add(SERVER, 3)
    assert registered_port(settings) == 9292
    pending.add(SERVER, 4, "http://host.docker.internal:9191")
    pending.add("http://other.example.com", 5, "http://127.0.0.1:9999")
    assert registered_port(settings) == 9191
    pending.add(SERVER, 6, "https://prelabel.example.com")  # of a proxy, which calls any port
    assert registered_port(settings) == 9292
