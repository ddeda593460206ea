"""The secret in the webhook URL, because Label Studio sends webhooks without authentication."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from backend.store.files import disk_errors, write_text


def load_webhook_secret(home: Path) -> str:
    """Load the secret of a home folder; create it at first use.

    Raises:
        StoreError: the home folder cannot be written.
    """
    file = home / "webhook_secret"
    with disk_errors(file):
        if not file.exists():
            write_text(file, secrets.token_urlsafe(24), private=True)
        return file.read_text(encoding="utf-8").strip()


def home_fingerprint(home: Path) -> str:
    """Return a public id of a home folder: a hash of its secret.

    Raises:
        StoreError: the home folder cannot be written.
    """
    return hashlib.sha256(f"home {load_webhook_secret(home)}".encode()).hexdigest()[:12]
