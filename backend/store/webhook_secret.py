"""The secret in the address that Label Studio's webhooks come to; it sends them without auth."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from backend.store.files import disk_errors, write_text


def load_webhook_secret(home: Path) -> str:
    """The secret of this home folder, made at first use and kept.

    Raises:
        StoreError: the home folder cannot be written.
    """
    file = home / "webhook_secret"
    with disk_errors(file):
        if not file.exists():
            write_text(file, secrets.token_urlsafe(24), private=True)
        return file.read_text(encoding="utf-8").strip()


def home_fingerprint(home: Path) -> str:
    """What a home folder is told apart by from others; tells nothing of the secret it comes from.

    Raises:
        StoreError: the home folder cannot be written.
    """
    return hashlib.sha256(f"home {load_webhook_secret(home)}".encode()).hexdigest()[:12]
