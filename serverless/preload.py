"""What is in a memory snapshot: imports alone; no secret, no socket, no GPU, nothing random."""

from __future__ import annotations

import importlib

SLOW = ("numpy", "torch", "open_clip", "backend.runtime.resources", "PIL.Image")


def imports() -> None:
    """Import what takes seconds."""
    for name in SLOW:
        importlib.import_module(name)
    from backend.vision.ultralytics_models import quiet_ultralytics

    quiet_ultralytics()
