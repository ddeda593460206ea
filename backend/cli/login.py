"""``prelabel login``: store a token of Label Studio, for commands and for a running backend."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backend.cli.command import Command, CommandResult
from backend.cli.terminal import TerminalPrompter, print_line

if TYPE_CHECKING:
    from backend.settings import Settings


NEXT_STEP_TEXT = (
    "Next: `prelabel init FOLDER` makes a project from a folder of images. For a project that "
    "exists, start `prelabel serve`, then run `prelabel connect PROJECT` in another terminal."
)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "server",
        nargs="?",
        default="",
        metavar="URL",
        help="address of Label Studio (default: LABEL_STUDIO_URL)",
    )
    parser.add_argument(
        "--keyring",
        action="store_true",
        help="keep the token in the keyring of the operating system instead of a file in "
        "PRELABEL_HOME (needs `uv sync --extra keyring`)",
    )
    parser.add_argument("--remove", action="store_true", help="remove the stored token")


def _run(options: argparse.Namespace) -> CommandResult:
    from backend.settings import read_settings

    settings = read_settings()
    if options.remove:
        return _remove_login(settings, options)
    from backend.store.projects import ProjectStore

    server, token, result = _store_login(settings, options)
    projects = ProjectStore(settings.home).listed()
    if not projects:
        print_line(NEXT_STEP_TEXT, options)
    if variable := _overriding_variable(server, token):
        print_line(
            f"{variable} is set in this terminal, and commands use it first: unset it. A running "
            "backend uses the new token when Label Studio refuses its own.",
            options,
        )
    return result


def _overriding_variable(server: str, token: str) -> str:
    """Return the variable of this terminal that overrides the stored login; "" if none does."""
    from backend.settings import read_settings

    settings = read_settings()
    if settings.label_studio_url != server:
        return "LABEL_STUDIO_URL"
    return "LABEL_STUDIO_API_KEY" if settings.api_key != token else ""


def _store_login(settings: Settings, options: argparse.Namespace) -> tuple[str, str, CommandResult]:
    """Ask for a token, check it, store it, and wake a running backend.

    Returns:
        the server, the token, and the result of the command.
    """
    from backend.cli.label_studio_starter import start_hint
    from backend.errors import AccessDeniedError, UsageError
    from backend.label_studio.api_errors import TOKEN_PAGE
    from backend.label_studio.client import LabelStudioClient
    from backend.label_studio.diagnostics import token_owner
    from backend.server_url import normalize_server_url
    from backend.store.login import LabelStudioLogin, login_file, save_login
    from backend.store.projects import ProjectStore
    from backend.store.wake import request_wake

    try:
        server = normalize_server_url(options.server) or settings.label_studio_url
    except ValueError as error:
        raise UsageError(f"{options.server} is not an address of Label Studio: {error}") from error
    token = TerminalPrompter().ask_secret(f"Token of {server}, from its page “{TOKEN_PAGE}”:")
    if not token.isascii() or any(map(str.isspace, token)):
        raise UsageError("A token has only letters, digits and -_. characters: copy it again.")
    try:
        owner = token_owner(LabelStudioClient(server, token))
    except AccessDeniedError as error:
        message = f"{error} {start_hint(settings, server)}".rstrip()
        raise AccessDeniedError(message) from error
    save_login(settings.home, LabelStudioLogin(server, token, options.keyring))
    place = "the keyring" if options.keyring else str(login_file(settings.home))
    print_line(f"Logged in to {server} as {owner}. The token is in {place}.", options)
    projects = ProjectStore(settings.home)
    for record in projects.all():
        request_wake(projects.folder(record.id))
    return server, token, {"server": server, "user": owner, "keyring": options.keyring}


def _remove_login(settings: Settings, options: argparse.Namespace) -> CommandResult:
    from backend.store.login import remove_login

    is_removed = remove_login(settings.home)
    print_line("The token was removed." if is_removed else "No token is stored.", options)
    return {"removed": is_removed}


COMMAND = Command(
    "login",
    "store a token of Label Studio, for commands and for a running backend",
    "prelabel login http://localhost:8080",
    _add_options,
    _run,
)
