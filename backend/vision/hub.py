"""Whether published weights can be had: told at once, and without importing open_clip.

The hub's own client asks for minutes where there is no internet, even for what it holds already.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip calls its weights in a repository, the one it prefers first."""
CONNECT_TIMEOUT_SECONDS = 3.0
"""A machine without internet shall not wait longer; looking up a name alone may take minutes."""


def find_cached_file(repository: str, names: Sequence[str] = CLIP_FILES) -> str | None:
    """The path of the first of these files that is on this machine already."""
    from huggingface_hub import try_to_load_from_cache

    cached_paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((path for path in cached_paths if isinstance(path, str)), None)


def hub_unavailable_reason() -> str:
    """Why the hub cannot be asked for weights; an empty text when it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return "" if is_url_reachable(constants.ENDPOINT) else f"{constants.ENDPOINT} does not answer"


def is_url_reachable(address: str) -> bool:
    """Whether anything answers at an address, within ``CONNECT_TIMEOUT_SECONDS`` whatever happens."""
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
