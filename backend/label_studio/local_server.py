"""Start a private Label Studio with SQLite in a folder, on the loopback address."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import httpx

from backend.errors import PrelabelError

FIRST_START_SECONDS = 300.0
DOWNLOAD_SECONDS = 900.0
"""Time limit for uv to download Label Studio, about 500 MB, before its first start."""
POLL_SECONDS = 0.3
LOCAL_EMAIL = "you@example.com"
LABEL_STUDIO_VERSION = "1.23.2"
"""The version that the tests use."""


class ServerProcess:
    """A server in a child process with its own process group.

    Args:
        command: program and arguments.
        environment: variables in addition to those of this process.
        log: file for its output.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._file: IO[bytes] = log.open("ab")
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=self._file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process and process group id."""
        return self._process.pid

    def wait_until_ready(
        self, url: str, seconds: float, report: Callable[[float], None] = lambda waited: None
    ) -> None:
        """Wait until an address answers.

        Args:
            url: address to poll.
            seconds: time limit.
            report: called with the elapsed seconds.

        Raises:
            PrelabelError: the server stopped, or did not answer in time.
        """
        start = time.monotonic()
        while (elapsed_seconds := time.monotonic() - start) < seconds:
            report(elapsed_seconds)
            if self._process.poll() is not None:
                raise PrelabelError(f"{self._program_name()} exited: {self.last_log_line()}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5, trust_env=False).status_code < 500:
                    return
            time.sleep(POLL_SECONDS)
        raise PrelabelError(
            f"{self._program_name()} did not answer within {seconds:.0f} s; see {self.log}."
        )

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Stop the server and all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal_number)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._file.close()

    def wait(self) -> None:
        """Wait until the server exits."""
        self._process.wait()

    def release(self) -> None:
        """Clean up after a server that another process stopped."""
        self._process.wait()
        self._file.close()

    def _program_name(self) -> str:
        return Path(str(self._process.args[0])).name  # type: ignore[index]

    def last_log_line(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self.log}"


class LabelStudioServer:
    """A Label Studio with one user and a legacy token.

    Args:
        folder: data folder, reused by later starts.
        port: port on the loopback address.
        token: 40 hexadecimal digits; random by default.
        password: password of the user ``LOCAL_EMAIL``; random by default.
        environment: further settings of Label Studio.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        token: str = "",
        password: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.token = token or secrets.token_hex(20)
        self.password = password or secrets.token_urlsafe(12)
        self._port = port
        self._extra_environment = dict(environment or {})
        self._server_process: ServerProcess | None = None

    def start(self) -> None:
        """Start the server without waiting until it is ready.

        Raises:
            PrelabelError: Label Studio is not installed, and uv is not there to run it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "studio.log"
        self._server_process = ServerProcess(self._command(), self._environment(), log)

    def wait_until_ready(
        self, report: Callable[[float], None] = lambda elapsed_seconds: None
    ) -> None:
        """Wait until the server answers; the first start creates the database in 20 to 60 s."""
        seconds = FIRST_START_SECONDS + DOWNLOAD_SECONDS * (not is_installed())
        self._require_process().wait_until_ready(f"{self.url}/health", seconds, report)

    def wait(self) -> None:
        """Wait until the server exits."""
        self._require_process().wait()

    def stop(self) -> None:
        """Stop the server."""
        if self._server_process is not None:
            self._server_process.stop()
            self._server_process = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._require_process().pid

    def _require_process(self) -> ServerProcess:
        if self._server_process is None:
            raise PrelabelError("Label Studio was not started.")
        return self._server_process

    def _command(self) -> list[str]:
        options = f"--no-browser --port {self._port} --internal-host 127.0.0.1 --host {self.url}"
        return [*_find_program(), "start", *options.split()]

    def _environment(self) -> dict[str, str]:
        return {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_USERNAME": LOCAL_EMAIL,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "DJANGO_DB": "sqlite",
            "LATEST_VERSION_CHECK": "false",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            # the backend has a private address, which both settings would block
            "ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            **self._extra_environment,
        }


def is_installed() -> bool:
    """Return whether Label Studio is installed in this environment or on the ``PATH``."""
    return bool(_installed_program())


def find_free_port(preferred: int = 0) -> int:
    """Return a free port on the loopback address, if possible the preferred one."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise PrelabelError("There is no free port on the loopback address.")


def _installed_program() -> str | None:
    scripts_folder = str(Path(sys.executable).parent)
    return shutil.which("label-studio", path=scripts_folder) or shutil.which("label-studio")


def _find_program() -> list[str]:
    """Return the command of Label Studio: the installed one, or one that uv downloads."""
    if program := _installed_program():
        return [program]
    if uv := os.environ.get("UV") or shutil.which("uv"):  # `uv run` sets UV
        version = f"label-studio=={LABEL_STUDIO_VERSION}"
        return [uv, "tool", "run", "--python", sys.executable, "--from", version, "label-studio"]
    raise PrelabelError(
        "Label Studio is not installed in this environment: run this command with `uv run`, or "
        "run `pip install label-studio`."
    )
