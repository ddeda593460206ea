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
POLL = 0.3
EMAIL = "demo@example.com"


class Program:
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

    def wait_for(self, url: str, seconds: float, tick: Callable[[float], None]) -> None:
        """Wait until an address answers.

        Args:
            url: asked again and again.
            seconds: how long.
            tick: told the seconds waited so far.

        Raises:
            PrelabelError: it ended, or did not answer in time; with the end of its log.
        """
        start = time.monotonic()
        while (waited := time.monotonic() - start) < seconds:
            tick(waited)
            if self._process.poll() is not None:
                raise PrelabelError(f"{self._what()} ended at once: {self._last_words()}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5, trust_env=False).status_code < 500:
                    return
            time.sleep(POLL)
        raise PrelabelError(f"{self._what()} did not answer in {seconds:.0f} s; see {self.log}.")

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._file.close()

    def forget(self) -> None:
        """It was ended by somebody else: only let go of it."""
        self._process.wait()
        self._file.close()

    def _what(self) -> str:
        return Path(str(self._process.args[0])).name  # type: ignore[index]

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self.log}"


class Studio:
    """A Label Studio with one user and a legacy token.

    Args:
        folder: its own; kept between starts.
        port: on loopback.
        token: 40 hexadecimal digits; made when not given.
        password: of the user ``EMAIL``; made when not given.
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
        self._more = dict(environment or {})
        self._program: Program | None = None

    def start(self) -> None:
        """Start it; :meth:`wait` until it answers.

        Raises:
            PrelabelError: Label Studio is not installed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._program = Program(self._command(), self._environment(), self.folder / "studio.log")

    def wait(self, tick: Callable[[float], None] = lambda waited: None) -> None:
        """Wait until it answers; the first start makes its database, which takes 20 to 60 s."""
        self._running().wait_for(f"{self.url}/health", FIRST_START_SECONDS, tick)

    def stop(self) -> None:
        """End it."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._running().pid

    def _running(self) -> Program:
        if self._program is None:
            raise PrelabelError("Label Studio was not started.")
        return self._program

    def _command(self) -> list[str]:
        here = str(Path(sys.executable).parent)
        program = shutil.which("label-studio", path=here) or shutil.which("label-studio")
        if program is None:
            raise PrelabelError(
                "Label Studio is not installed beside Prelabel: run this with `uv run prelabel "
                "demo`, or `pip install label-studio`."
            )
        place = ["--port", str(self._port), "--internal-host", "127.0.0.1", "--host", self.url]
        return [program, "start", "--no-browser", *place]

    def _environment(self) -> dict[str, str]:
        return {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_USERNAME": EMAIL,
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
            **self._more,
        }


def free_port(wanted: int = 0) -> int:
    """A port of loopback that nobody listens at: the wanted one if it is free."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise PrelabelError("No free port on loopback.")
