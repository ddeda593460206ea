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
        secret = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        if not secret:  # an empty secret would let everybody in
            secret = secrets.token_urlsafe(24)
            write_text(file, secret, private=True)
        return secret


def home_fingerprint(home: Path) -> str:
    """Return a public id of a home folder: a hash of its secret.

    Raises:
        StoreError: the home folder cannot be written.
    """
    return hashlib.sha256(f"home {load_webhook_secret(home)}".encode()).hexdigest()[:12]
