"""The secret in the webhook URL, because Label Studio sends webhooks without authentication."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from backend.store.files import disk_errors, write_text
from backend.store.record_files import backup_path, log_once

SECRET_PATTERN = re.compile(r"[\w-]{20,}", re.ASCII)


def load_webhook_secret(home: Path) -> str:
    """Load the secret of a home folder; create it at first use.

    A second copy replaces a damaged one. If both are damaged, a new secret is created.

    Raises:
        StoreError: the home folder cannot be written.
    """
    file = home / "webhook_secret"
    backup = backup_path(file)
    secret = _read_secret(file) or _read_secret(backup)
    if not secret:  # an empty secret would let everybody in
        if file.exists():
            log_once(
                f"{file} is damaged, so webhook addresses have a new secret: with PRELABEL_USER, "
                "run `prelabel connect` for each project again."
            )
        secret = secrets.token_urlsafe(24)
    for copy in (backup, file):
        if _read_secret(copy) != secret:
            write_text(copy, secret, private=True)
    return _read_secret(file) or secret


def home_fingerprint(home: Path) -> str:
    """Return a public id of a home folder: a hash of its secret.

    Raises:
        StoreError: the home folder cannot be written.
    """
    return hashlib.sha256(f"home {load_webhook_secret(home)}".encode()).hexdigest()[:12]


def _read_secret(file: Path) -> str:
    """Read a copy of the secret; empty if it is missing or damaged."""
    with disk_errors(file):
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return text.strip() if SECRET_PATTERN.fullmatch(text.strip()) else ""
