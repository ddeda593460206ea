"""The Label Studio that commands use if the environment names none, and its token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import StoreError
from backend.store.files import remove_file
from backend.store.record_files import read_cache, write_record

LOGIN_FILE = "label-studio-login.json"
KEYRING_SERVICE = "prelabel"
NO_KEYRING_MESSAGE = (
    "The package keyring is not installed: run `uv sync --extra keyring`, or leave out --keyring."
)


@dataclass(frozen=True)
class LabelStudioLogin:
    """A Label Studio and a token for it.

    Attributes:
        server: its address.
        token: legacy token or personal access token; empty in the file if the keyring has it.
        is_in_keyring: whether the token is in the keyring of the operating system.
    """

    server: str
    token: str = ""
    is_in_keyring: bool = False


NO_LOGIN = LabelStudioLogin("")


def login_file(home: Path) -> Path:
    """Return the file of the login, which only its owner can read."""
    return home / LOGIN_FILE


def load_login(home: Path) -> LabelStudioLogin:
    """Return the login of a home folder; ``NO_LOGIN`` without one.

    Raises:
        StoreError: the file or the keyring cannot be read.
    """
    login = read_cache(login_file(home), LabelStudioLogin, NO_LOGIN)
    if not login.is_in_keyring:
        return login
    return replace(login, token=_read_keyring(login.server))


def has_login(home: Path, server: str) -> bool:
    """Return whether there is a login for a server; the keyring is not read."""
    return read_cache(login_file(home), LabelStudioLogin, NO_LOGIN).server == server


def save_login(home: Path, login: LabelStudioLogin) -> None:
    """Save a login; with ``is_in_keyring``, its token is saved in the keyring only.

    Raises:
        StoreError: the file or the keyring cannot be written.
    """
    if login.is_in_keyring:
        _write_keyring(login.server, login.token)
        login = replace(login, token="")
    write_record(login_file(home), login, private=True)


def remove_login(home: Path) -> bool:
    """Remove the login, and return whether there was one.

    Raises:
        StoreError: the file or the keyring cannot be changed.
    """
    login = read_cache(login_file(home), LabelStudioLogin, NO_LOGIN)
    if login.is_in_keyring:
        _write_keyring(login.server, "")
    return remove_file(login_file(home))


def _read_keyring(server: str) -> str:
    try:
        import keyring
    except ImportError as error:
        raise StoreError(NO_KEYRING_MESSAGE) from error
    try:
        return keyring.get_password(KEYRING_SERVICE, server) or ""
    except keyring.errors.KeyringError as error:
        raise StoreError(f"The keyring cannot be read ({error}): unlock it.") from error


def _write_keyring(server: str, token: str) -> None:
    try:
        import keyring
    except ImportError as error:
        raise StoreError(NO_KEYRING_MESSAGE) from error
    try:
        if token:
            keyring.set_password(KEYRING_SERVICE, server, token)
        elif keyring.get_password(KEYRING_SERVICE, server):
            keyring.delete_password(KEYRING_SERVICE, server)
    except keyring.errors.KeyringError as error:
        raise StoreError(
            f"The keyring cannot be written ({error}): unlock it, or leave out --keyring."
        ) from error
