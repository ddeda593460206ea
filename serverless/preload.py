"""What is in a memory snapshot: imports alone; no secret, no socket, no GPU, nothing random."""

from __future__ import annotations

import importlib

PRELOADED_MODULES = ("numpy", "torch", "open_clip", "backend.runtime.resources", "PIL.Image")


def preload_modules() -> None:
    """Import what takes seconds."""
    for name in PRELOADED_MODULES:
        importlib.import_module(name)
    from backend.vision.ultralytics_models import import_ultralytics

    import_ultralytics()
