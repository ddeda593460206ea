"""The one owner of ultralytics: made quiet and safe before it is imported.

What is switched off: network calls, telemetry, automatic installs, fonts; and checkpoints that
carry code are refused (a ``.pt`` file is a pickle).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from backend.errors import EncoderError

QUIET = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",
}
REPORTS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune")


def quiet_ultralytics() -> Any:
    """The ultralytics package, without its habits.

    Returns:
        the module.
    """
    os.environ.update(QUIET)
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "prelabel-yolo"))
    import ultralytics
    from ultralytics.utils import SETTINGS

    changed = {name: False for name in REPORTS if SETTINGS.get(name)}
    if changed:
        SETTINGS.update(changed)
    return ultralytics


def load_checkpoint(path: Path) -> Any:
    """A network from a checkpoint file, in float32 and evaluation mode.

    Args:
        path: a ``.pt`` file. Untrusted: read without running code from it.

    Raises:
        EncoderError: it is no checkpoint of ultralytics, or carries code.
    """
    quiet_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint as load

    try:
        network, _ = load(str(path), device="cpu")
    except Exception as error:  # torch, pickle and ultralytics each raise their own kinds
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise EncoderError(
            f"{path} is no checkpoint that can be read safely ({why}): use one that ultralytics "
            "published or that you trained with it."
        ) from error
    return network.float().eval()
