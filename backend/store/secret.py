"""The secret in the address that Label Studio's webhooks come to; it sends them without auth."""

from __future__ import annotations

import secrets
from pathlib import Path

from backend.store.files import explained, write_text


def webhook_secret(home: Path) -> str:
    """The secret of this home folder, made at first use and kept.

    Raises:
        StoreError: the home folder cannot be written.
    """
    file = home / "webhook_secret"
    with explained(file):
        if not file.exists():
            write_text(file, secrets.token_urlsafe(24), private=True)
        return file.read_text(encoding="utf-8").strip()
