"""Which Label Studio a command uses: the configured one, the one of `login`, or its own."""

from __future__ import annotations

import argparse
import io
import json
import socket
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.cli import label_studio_starter
from backend.cli.label_studio_starter import LabelStudioStarter
from backend.cli.main import main
from backend.cli.terminal import TerminalPrompter
from backend.errors import PrelabelError, StoreError, UsageError
from backend.label_studio import local_server
from backend.label_studio.diagnostics import identify_label_studio
from backend.label_studio.local_server import find_free_port
from backend.label_studio.sign_in import SignInServer
from backend.onboarding.managed_label_studio import LocalAccount, ManagedLabelStudio
from backend.settings import Settings, configured_variable, read_settings
from backend.store.login import (
    NO_LOGIN,
    LabelStudioLogin,
    has_login,
    load_login,
    login_file,
    remove_login,
    save_login,
)
from backend.store.projects import ProjectStore
from backend.store.record_files import write_record

SERVER, TOKEN = "http://label.example.com", "b" * 40


@pytest.mark.parametrize(
    ("environment", "server", "token"),
    [
        ({}, SERVER, TOKEN),
        ({"LABEL_STUDIO_URL": f"{SERVER}/"}, SERVER, TOKEN),
        ({"LABEL_STUDIO_API_KEY": "a" * 40}, SERVER, "a" * 40),
        # a token is sent to its own server only
        ({"LABEL_STUDIO_URL": "http://other.example.com"}, "http://other.example.com", ""),
    ],
)
def test_the_environment_precedes_the_stored_login(
    tmp_path: Path, environment: dict[str, str], server: str, token: str
) -> None:
    save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN))
    settings = read_settings({"PRELABEL_HOME": str(tmp_path), **environment})
    assert (settings.label_studio_url, settings.label_studio_host) == (server, server)
    assert settings.api_key == token


def test_a_stored_login_is_private_and_can_be_removed(tmp_path: Path) -> None:
    save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN))
    assert stat.S_IMODE(login_file(tmp_path).stat().st_mode) == 0o600
    assert remove_login(tmp_path)
    assert load_login(tmp_path) == NO_LOGIN
    assert not remove_login(tmp_path)


def test_a_damaged_login_is_set_aside(tmp_path: Path) -> None:
    login_file(tmp_path).write_text("{")
    settings = read_settings({"PRELABEL_HOME": str(tmp_path)})
    assert (settings.label_studio_url, settings.api_key) == ("http://localhost:8080", "")


def test_the_keyring_keeps_the_token_out_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    class MemoryKeyring(KeyringBackend):
        priority = 1.0
        passwords: dict[tuple[str, str], str] = {}  # noqa: RUF012 - one per test process

        def get_password(self, service: str, username: str) -> str | None:
            return self.passwords.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.passwords[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del self.passwords[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(MemoryKeyring())  # type: ignore[no-untyped-call]
    try:
        save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN, is_in_keyring=True))
        assert TOKEN not in login_file(tmp_path).read_text()
        assert MemoryKeyring.passwords == {("prelabel", SERVER): TOKEN}
        assert read_settings({"PRELABEL_HOME": str(tmp_path)}).api_key == TOKEN
        remove_login(tmp_path)
        assert MemoryKeyring.passwords == {}
    finally:
        keyring.set_keyring(before)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(StoreError, match="uv sync --extra keyring"):
        save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN, is_in_keyring=True))
    save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN))


def starter_of(home: Path, start: bool | None = None, **settings: Any) -> LabelStudioStarter:
    options = argparse.Namespace(start_label_studio=start, json=False)
    return LabelStudioStarter(options, Settings(home=home, **settings), lambda line: None)


def test_nothing_is_started_beside_a_configured_label_studio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of these settings reaches the question, which would need a terminal."""
    server = f"http://127.0.0.1:{find_free_port()}"
    monkeypatch.setenv("LABEL_STUDIO_URL", server)
    assert configured_variable() == "LABEL_STUDIO_URL"
    starter = starter_of(tmp_path, label_studio_url=server)
    assert starter.ensure_running(may_ask=True).label_studio_url == server
    with pytest.raises(UsageError, match="LABEL_STUDIO_URL is set: unset it"):
        starter_of(tmp_path, True, label_studio_url=server).ensure_running(may_ask=True)
    monkeypatch.delenv("LABEL_STUDIO_URL")
    save_login(tmp_path, LabelStudioLogin(server, TOKEN))
    assert starter_of(tmp_path, label_studio_url=server).ensure_running(may_ask=True)
    with pytest.raises(UsageError, match="prelabel login --remove"):
        starter_of(tmp_path, True, label_studio_url=server).ensure_running(may_ask=True)


def test_in_a_script_nothing_is_started_unless_the_option_asks_for_it(tmp_path: Path) -> None:
    server = f"http://127.0.0.1:{find_free_port()}"
    starter = starter_of(tmp_path, label_studio_url=server)
    assert not starter.ensure_running(may_ask=True).api_key
    assert not starter.is_started
    assert starter.sign_in_link(server) == server


def test_a_person_is_asked_before_one_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = f"http://127.0.0.1:{find_free_port()}"
    monkeypatch.setattr(TerminalPrompter, "is_interactive", True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    starter = starter_of(tmp_path, label_studio_url=server)
    starter.ensure_running(may_ask=True)
    assert f"No Label Studio runs at {server}. Start one here" in capsys.readouterr().err
    assert not starter.is_started
    starter.ensure_running(may_ask=False)  # `serve` does not ask
    assert capsys.readouterr().err == ""


def test_one_that_was_started_before_is_not_started_against_the_option(tmp_path: Path) -> None:
    account = LocalAccount(find_free_port())
    write_record(ManagedLabelStudio(tmp_path).account_file, account, private=True)
    starter = starter_of(tmp_path, False, label_studio_url=account.url)
    starter.ensure_running(may_ask=True)
    assert not starter.is_started
    assert account.password not in repr(account)


def test_a_program_on_its_port_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        account = LocalAccount(other.getsockname()[1])
        write_record(ManagedLabelStudio(tmp_path).account_file, account, private=True)
        with pytest.raises(PrelabelError, match=f"Another program uses port {account.port}"):
            ManagedLabelStudio(tmp_path).start(lambda seconds: None)


def test_label_studio_is_the_installed_one_or_one_that_uv_downloads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert local_server._find_program()[0].endswith("label-studio")
    program = tmp_path / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UV", "/opt/uv")
    assert local_server._find_program() == [
        *("/opt/uv", "tool", "run", "--python", str(program)),
        *("--from", f"label-studio=={local_server.LABEL_STUDIO_VERSION}", "label-studio"),
    ]
    monkeypatch.delenv("UV")
    with pytest.raises(PrelabelError, match="pip install label-studio"):
        local_server._find_program()


def test_the_downloaded_version_is_the_tested_one() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"label-studio=={local_server.LABEL_STUDIO_VERSION}"' in project


def test_the_question_names_the_folder_of_the_data() -> None:
    question = label_studio_starter.START_QUESTION.format(server=SERVER, folder="/data")
    assert "Its data is kept in /data." in question


def test_a_login_is_removed_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN))
    assert main(["login", "--remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"removed": True}
    assert main(["login", "label.example.com"]) == 2
    assert "not an address of Label Studio" in capsys.readouterr().err


class OtherLabelStudio(BaseHTTPRequestHandler):
    """The Label Studio of another person, which refuses every token."""

    status, content = 401, b"{}"

    def do_GET(self) -> None:
        is_version = self.path.startswith("/api/version")
        is_public = is_version or self.path == "/health"
        self.send_response(200 if is_public else self.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        version = b'{"release": "1.23.2", "label-studio-os-package": {}}'
        self.wfile.write(version if is_public else self.content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize("is_configured", [False, True])
@pytest.mark.parametrize("command", ["init", "login"])
def test_a_refused_token_names_the_way_to_an_own_label_studio(
    command: str,
    is_configured: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherLabelStudio)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings = Settings(home=tmp_path / "home", label_studio_url=url)  # it has the default address
    monkeypatch.setattr("backend.settings.read_settings", lambda: settings)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    if is_configured:  # then it would be refused
        monkeypatch.setenv("LABEL_STUDIO_URL", url)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    (tmp_path / "1.png").write_bytes(b"")
    assert main([command, *([str(tmp_path)] if command == "init" else [])]) == 1
    server.shutdown()
    server.server_close()
    message = capsys.readouterr().err
    assert "prelabel login" in message
    hint = "`prelabel init FOLDER --start-label-studio` starts one of your own on another port"
    assert (hint in message) == (not is_configured)


def test_another_label_studio_at_the_address_gets_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords: list[str] = []

    class PasswordRecorder(OtherLabelStudio):
        def do_POST(self) -> None:
            passwords.append(self.path)
            self.send_error(403)

    server = ThreadingHTTPServer(("127.0.0.1", 0), PasswordRecorder)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    account = LocalAccount(server.server_port)
    write_record(ManagedLabelStudio(tmp_path).account_file, account, private=True)
    assert identify_label_studio(account.url).is_expected
    starter = starter_of(tmp_path, label_studio_url=account.url)
    with pytest.raises(PrelabelError, match="add --no-start-label-studio"):
        starter.ensure_running(may_ask=False)
    server.shutdown()
    server.server_close()
    assert passwords == []


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "label.example.com"])
def test_a_link_that_signs_in_leads_to_the_page_however_this_machine_is_named(host: str) -> None:
    sign_in = SignInServer("http://127.0.0.1:8080", "you@example.com", "secret")
    link = sign_in.link_to(f"http://{host}/projects/1/data?tab=2&labeling=1")
    answer = httpx.get(link, trust_env=False)
    sign_in.wait_for_request(0)
    sign_in.close()
    assert answer.status_code == 302
    page = "http://127.0.0.1:8080/projects/1/data?tab=2&labeling=1"
    assert answer.headers["location"] == page


@pytest.mark.parametrize("token", ["••••••••", "a token", "„abc“"])
def test_what_cannot_be_a_token_is_refused_before_it_is_sent(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{token}\n"))
    assert main(["login", "http://127.0.0.1:9"]) == 2
    assert "copy it again" in capsys.readouterr().err


def test_a_login_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OwnLabelStudio(OtherLabelStudio):
        status, content = 200, b'{"email": "me@example.com"}'

    server = ThreadingHTTPServer(("127.0.0.1", 0), OwnLabelStudio)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{server.server_port}"
    shown = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
        assert main(["login", url]) == 0
        shown.append(capsys.readouterr().out)
        ProjectStore(tmp_path).register(url, 1)
    server.shutdown()
    server.server_close()
    assert f"Logged in to {url} as me@example.com." in shown[0]
    assert "Next: `prelabel init FOLDER`" in shown[0]
    assert "`prelabel connect PROJECT`" in shown[0]
    assert "Next" not in shown[1], "a project is connected"


def test_a_later_login_for_the_same_server_is_kept(tmp_path: Path) -> None:
    assert not has_login(tmp_path, SERVER)
    save_login(tmp_path, LabelStudioLogin(SERVER, TOKEN))
    assert has_login(tmp_path, SERVER)
    assert not has_login(tmp_path, "http://other.example.com")
