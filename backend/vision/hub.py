"""Check quickly whether published weights are available, without importing open_clip.

The client of the hub retries for minutes without internet, even for files that are cached.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names of open_clip weights in a repository, the preferred one first."""
CONNECT_TIMEOUT_SECONDS = 3.0
"""Limit for machines without internet, where a DNS lookup alone may take minutes."""


def find_cached_file(repository: str, names: Sequence[str] = CLIP_FILES) -> str | None:
    """Return the path of the first of these files that is cached on this machine."""
    from huggingface_hub import try_to_load_from_cache

    cached_paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((path for path in cached_paths if isinstance(path, str)), None)


def hub_unavailable_reason() -> str:
    """Return why the hub cannot be reached, or an empty string if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return "" if is_url_reachable(constants.ENDPOINT) else f"{constants.ENDPOINT} does not answer"


def is_url_reachable(address: str) -> bool:
    """Return within ``CONNECT_TIMEOUT_SECONDS`` whether a server responds at an address."""
    reply_queue: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=lambda: reply_queue.put(_probe(address)), daemon=True).start()
    try:
        return reply_queue.get(timeout=CONNECT_TIMEOUT_SECONDS)
    except queue.Empty:
        return False


def _probe(address: str) -> bool:
    import httpx

    try:
        return httpx.head(address, timeout=CONNECT_TIMEOUT_SECONDS).status_code < 500
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return False
