"""A real Label Studio of one's own: SQLite, in a folder, on loopback."""

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
POLL_SECONDS = 0.3
DEMO_EMAIL = "demo@example.com"


class ServerProcess:
    """A program that runs beside this one, in a process group of its own, with a log.

    Args:
        command: what to run.
        environment: added to this process's.
        log: where its output goes.
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
        """The process's number, and its group's."""
        return self._process.pid

    def wait_until_ready(self, url: str, seconds: float, report: Callable[[float], None]) -> None:
        """Wait until an address answers.

        Args:
            url: asked again and again.
            seconds: how long.
            report: told the seconds waited so far.

        Raises:
            PrelabelError: it ended, or did not answer in time; with the end of its log.
        """
        start = time.monotonic()
        while (elapsed_seconds := time.monotonic() - start) < seconds:
            report(elapsed_seconds)
            if self._process.poll() is not None:
                raise PrelabelError(
                    f"{self._program_name()} ended at once: {self._last_log_line()}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5, trust_env=False).status_code < 500:
                    return
            time.sleep(POLL_SECONDS)
        raise PrelabelError(
            f"{self._program_name()} did not answer in {seconds:.0f} s; see {self.log}."
        )

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal_number)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._file.close()

    def release(self) -> None:
        """It was ended by somebody else: only let go of it."""
        self._process.wait()
        self._file.close()

    def _program_name(self) -> str:
        return Path(str(self._process.args[0])).name  # type: ignore[index]

    def _last_log_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self.log}"


class LabelStudioServer:
    """A Label Studio with one user and a legacy token.

    Args:
        folder: its own; kept between starts.
        port: on loopback.
        token: 40 hexadecimal digits; made when not given.
        password: of the user ``DEMO_EMAIL``; made when not given.
        environment: more settings of Label Studio.
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
        """Start it; :meth:`wait_until_ready` until it answers.

        Raises:
            PrelabelError: Label Studio is not installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server_process = ServerProcess(
            self._command(), self._environment(), self.folder / "studio.log"
        )

    def wait_until_ready(
        self, report: Callable[[float], None] = lambda elapsed_seconds: None
    ) -> None:
        """Wait until it answers; the first start makes its database, which takes 20 to 60 s."""
        self._require_process().wait_until_ready(f"{self.url}/health", FIRST_START_SECONDS, report)

    def stop(self) -> None:
        """End it."""
        if self._server_process is not None:
            self._server_process.stop()
            self._server_process = None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._require_process().pid

    def _require_process(self) -> ServerProcess:
        if self._server_process is None:
            raise PrelabelError("Label Studio was not started.")
        return self._server_process

    def _command(self) -> list[str]:
        scripts_folder = str(Path(sys.executable).parent)
        program = shutil.which("label-studio", path=scripts_folder) or shutil.which("label-studio")
        if program is None:
            raise PrelabelError(
                "Label Studio is not installed beside Prelabel: run this with `uv run prelabel "
                "demo`, or `pip install label-studio`."
            )
        address_options = [
            "--port",
            str(self._port),
            "--internal-host",
            "127.0.0.1",
            "--host",
            self.url,
        ]
        return [program, "start", "--no-browser", *address_options]

    def _environment(self) -> dict[str, str]:
        return {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_USERNAME": DEMO_EMAIL,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "DJANGO_DB": "sqlite",
            "LATEST_VERSION_CHECK": "false",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            # the backend has a private address: both are needed
            "ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            **self._extra_environment,
        }


def find_free_port(preferred: int = 0) -> int:
    """A port of loopback that nobody listens at: the wanted one if it is free."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise PrelabelError("No free port on loopback.")
