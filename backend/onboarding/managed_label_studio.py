"""Start a Label Studio for a person who has none, and reuse its data later."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import PrelabelError, StoreError
from backend.label_studio.diagnostics import is_listening
from backend.label_studio.local_server import LOCAL_EMAIL, LabelStudioServer, find_free_port
from backend.store.files import disk_errors, exclusive_lock
from backend.store.login import LabelStudioLogin, has_login, save_login
from backend.store.record_files import read_record, write_record

FOLDER_NAME, ACCOUNT_FILE, LOCK_FILE = "label-studio", "account.json", "label-studio.lock"
PREFERRED_PORT = 8080
LOCK_SECONDS = 1.0
ACCOUNT_FIX = "restore it, or delete the folder, which deletes its projects"
ENVIRONMENT = {"LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true"}


@dataclass(frozen=True)
class LocalAccount:
    """The user of the Label Studio that Prelabel starts.

    Attributes:
        port: port on the loopback address, the same at each start.
        email: email of the user.
        password: password of the user.
        token: legacy token of the user.
    """

    port: int
    email: str = LOCAL_EMAIL
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9), repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    @property
    def url(self) -> str:
        """Address of Label Studio."""
        return f"http://127.0.0.1:{self.port}"


class ManagedLabelStudio:
    """A local Label Studio that Prelabel starts, with its data in ``PRELABEL_HOME``.

    Args:
        home: ``PRELABEL_HOME``.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.folder = home / FOLDER_NAME
        self.account_file = self.folder / ACCOUNT_FILE
        self._server: LabelStudioServer | None = None

    def account(self) -> LocalAccount | None:
        """Return its account; None before the first start.

        Raises:
            StoreError: the file is damaged or cannot be read.
        """
        return read_record(self.account_file, LocalAccount, advice=ACCOUNT_FIX)

    def start(self, report: Callable[[float], None]) -> LocalAccount:
        """Start it with the data of the last time, wait until it answers, and log in.

        Args:
            report: called with the elapsed seconds.

        Raises:
            PrelabelError: it cannot be started, or another program uses its port.
        """
        busy_error = StoreError(
            f"Another command starts the Label Studio of {self.folder}: wait until it has."
        )
        with exclusive_lock(self._home / LOCK_FILE, busy_error, LOCK_SECONDS):
            account = self.account()
            if account is None:
                account = LocalAccount(find_free_port(PREFERRED_PORT))
                with disk_errors(self.folder):
                    self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_record(self.account_file, account, private=True)
            elif is_listening(account.url):
                raise PrelabelError(
                    f"Another program uses port {account.port}, on which the Label Studio of "
                    f"{self.folder} ran: stop it, or add --no-start-label-studio."
                )
            self._server = LabelStudioServer(
                self.folder, account.port, account.token, account.password, ENVIRONMENT
            )
            try:
                self._server.start()
                self._server.wait_until_ready(report)
            except BaseException:
                self.stop()
                raise
            if not has_login(self._home, account.url):  # a later token of `prelabel login` stays
                save_login(self._home, LabelStudioLogin(account.url, account.token))
        return account

    @property
    def is_started(self) -> bool:
        """Whether this process started it."""
        return self._server is not None

    def wait(self) -> None:
        """Wait until it exits."""
        if self._server is not None:
            self._server.wait()

    def stop(self) -> None:
        """Stop it, if this process started it."""
        if self._server is not None:
            self._server.stop()
            self._server = None
