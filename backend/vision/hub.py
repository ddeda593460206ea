"""Check within seconds whether published weights are available, without importing open_clip.

Without internet, the Hugging Face client retries for minutes, even for cached files.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""File names of open_clip weights in a Hugging Face repository, in order of preference."""
CONNECT_TIMEOUT_SECONDS = 3.0
"""Timeout including the DNS lookup, which alone may take minutes without internet."""


def find_cached_file(repository: str, names: Sequence[str] = CLIP_FILES) -> str | None:
    """Return the path of the first of the files in the local Hugging Face cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    cached_paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((path for path in cached_paths if isinstance(path, str)), None)


def hub_unavailable_reason() -> str:
    """Return why the Hugging Face hub is unreachable; empty if it is reachable."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return "" if is_url_reachable(constants.ENDPOINT) else f"{constants.ENDPOINT} does not answer"


def is_url_reachable(address: str) -> bool:
    """Return whether a server responds at an address within ``CONNECT_TIMEOUT_SECONDS``."""
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
