"""Start a Label Studio for a person who has none: option, question, and lifetime."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from backend.cli import terminal
from backend.errors import AccessDeniedError, PrelabelError, UsageError

if TYPE_CHECKING:
    from backend.callbacks import LogCallback
    from backend.label_studio.sign_in import SignInServer
    from backend.onboarding.managed_label_studio import LocalAccount
    from backend.settings import Settings

START_QUESTION = (
    "No Label Studio runs at {server}. Start one here, until you press Ctrl-C? Its data is kept in "
    "{folder}. If yours runs elsewhere, answer no, and log in to it with `prelabel login URL`."
)
CONFIGURED_MESSAGE = (
    "{variable} is set: unset it, or leave out --start-label-studio, which starts a Label Studio "
    "of its own."
)
LOGGED_IN_MESSAGE = (
    "You are logged in to {server}: run `prelabel login --remove`, or leave out "
    "--start-label-studio, which starts a Label Studio of its own."
)

OTHER_SERVER_MESSAGE = (
    "The Label Studio at {server} refuses the token of the one that Prelabel starts there. If it "
    "is another one, stop it or add --no-start-label-studio; otherwise run `prelabel login "
    "{server}` with a new token."
)
START_HINT = (
    "If it is not your Label Studio, `prelabel init FOLDER --start-label-studio` starts one of "
    "your own on another port."
)
SIGN_IN_WAIT_SECONDS = 20.0
"""Time for a browser to start and to request the link."""


def add_start_option(parser: argparse._ActionsContainer) -> None:
    """Add the option that answers whether to start a Label Studio."""
    parser.add_argument(
        "--start-label-studio",
        action=argparse.BooleanOptionalAction,
        help="start a Label Studio with its data in PRELABEL_HOME, until Ctrl-C, if none is "
        "running (asked; one that was started before is started again)",
    )


def start_hint(settings: Settings, server: str) -> str:
    """Return how to start an own Label Studio if a default address refuses the token, else ""."""
    from backend.settings import configured_variable
    from backend.store.login import load_login
    from backend.store.servers import is_same_server

    is_chosen = configured_variable() or load_login(settings.home).server
    is_default = is_same_server(server, settings.label_studio_url)
    return START_HINT if is_default and not is_chosen else ""


class LabelStudioStarter:
    """The Label Studio of a command, which is stopped when the command ends.

    Args:
        options: options of the command.
        settings: settings of this process.
        log: prints a line.
    """

    def __init__(self, options: argparse.Namespace, settings: Settings, log: LogCallback) -> None:
        from backend.onboarding.managed_label_studio import ManagedLabelStudio

        self._options = options
        self._settings = settings
        self._log = log
        self._managed = ManagedLabelStudio(settings.home)
        self._sign_in: SignInServer | None = None
        self._is_link_opened = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._managed.is_started and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):  # uv forwards what a group gets already
                signal.signal(number, signal.SIG_IGN)
        if self._sign_in is not None:
            if self._is_link_opened and error is None:  # the browser may still be starting
                self._sign_in.wait_for_request(SIGN_IN_WAIT_SECONDS)
            self._sign_in.close()
        self._managed.stop()

    @property
    def is_started(self) -> bool:
        """Whether this command started Label Studio."""
        return self._managed.is_started

    def ensure_running(
        self, *, may_ask: bool, before_start: Callable[[], None] = lambda: None
    ) -> Settings:
        """Start the managed Label Studio if it is used and does not run.

        Args:
            may_ask: whether to offer to create one.
            before_start: checks what comes after the start, which takes up to minutes.

        Returns:
            the settings, with its address and token.

        Raises:
            UsageError: another Label Studio is configured although the option asks for this one.
            PrelabelError: it cannot be started.
        """
        from backend.label_studio.diagnostics import identify_label_studio
        from backend.settings import read_settings

        account = self._managed.account()
        if self._options.start_label_studio is False or not self._is_managed_used(account):
            return self._settings
        server = account.url if account else self._settings.label_studio_url
        if identify_label_studio(server).is_expected and (
            account or not self._options.start_label_studio
        ):
            if account:
                self._check_is_managed(account)
                self._serve_sign_in(account)
            return self._settings
        if account is None and not self._should_create(may_ask):
            return self._settings
        before_start()
        self._start()
        return read_settings()

    def sign_in_link(self, page: str) -> str:
        """Return a link that opens a page of the managed Label Studio signed in, else the page."""
        return self._sign_in.link_to(page) if self._sign_in else page

    def open_in_browser(self, link: str) -> None:
        """Open a link; the command then ends only after the browser has requested it."""
        self._is_link_opened = terminal.open_in_browser(link)

    def wait(self) -> None:
        """Keep Label Studio running until the command is stopped."""
        self._log("Label Studio runs until you press Ctrl-C.")
        self._managed.wait()

    def _check_is_managed(self, account: LocalAccount) -> None:
        """Check that the Label Studio that runs at the address is the managed one."""
        from backend.label_studio.client import LabelStudioClient
        from backend.label_studio.diagnostics import token_owner

        try:
            token_owner(LabelStudioClient(account.url, self._settings.api_key or account.token))
        except AccessDeniedError as error:
            raise PrelabelError(OTHER_SERVER_MESSAGE.format(server=account.url)) from error

    def _is_managed_used(self, account: LocalAccount | None) -> bool:
        from backend.settings import configured_variable
        from backend.store.login import load_login
        from backend.store.servers import is_same_server

        if account and is_same_server(self._settings.label_studio_url, account.url):
            return True
        message = ""
        if variable := configured_variable():
            message = CONFIGURED_MESSAGE.format(variable=variable)
        elif server := load_login(self._settings.home).server:
            message = LOGGED_IN_MESSAGE.format(server=server)
        if message and self._options.start_label_studio:
            raise UsageError(message)
        return not message

    def _should_create(self, may_ask: bool) -> bool:
        if self._options.start_label_studio:
            return True
        prompter = terminal.TerminalPrompter()
        question = START_QUESTION.format(
            server=self._settings.label_studio_url, folder=self._managed.folder
        )
        return (
            may_ask and prompter.is_interactive and prompter.confirm(question, "start-label-studio")
        )

    def _start(self) -> None:
        from backend.label_studio.local_server import is_installed

        if threading.current_thread() is threading.main_thread():
            # clean up as after Ctrl-C
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(AttributeError):  # Windows has none
                signal.signal(signal.SIGHUP, signal.default_int_handler)
        if not is_installed():
            self._log("uv downloads Label Studio, about 500 MB, once.")
        is_first = self._managed.account() is None
        what = "Creating the database of Label Studio" if is_first else "Starting Label Studio"
        try:
            account = self._managed.start(
                lambda seconds: terminal.show_progress(f"{what} … {seconds:.0f} s")
            )
        finally:
            terminal.clear_progress()
        self._serve_sign_in(account)
        shows_password = is_first or sys.stderr.isatty()  # a log would keep it
        password = f"{account.password} (kept in {self._managed.account_file})"
        place = password if shows_password else f"in {self._managed.account_file}"
        self._log(
            f"Label Studio runs at {account.url}. Its user is {account.email} with the password "
            f"{place}."
        )

    def _serve_sign_in(self, account: LocalAccount) -> None:
        from backend.label_studio.sign_in import SignInServer

        self._sign_in = SignInServer(account.url, account.email, account.password)
