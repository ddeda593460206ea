"""Load the encoder that a setting names, and choose one for ``auto``."""

from __future__ import annotations

from pathlib import Path

from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.encoders.base import (
    DEFAULT_CLIP,
    DEFAULT_YOLO_CLS,
    ENCODER_SETTING_HELP,
    Encoder,
)

DEFAULT_REPOSITORY = "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"
"""Where the hub keeps these weights."""


def load_encoder(setting: str, *, say: LogCallback, weights_dir: Path | None = None) -> Encoder:
    """Load the encoder of a setting.

    Args:
        setting: ``PRELABEL_ENCODER``.
        say: told in one line what ``auto`` took and why, and of licences that bind.
        weights_dir: where named ultralytics weights are kept and looked for.

    Raises:
        EncoderError: there is no such encoder, or its weights cannot be had.
    """
    setting = setting.strip()
    if setting == "auto":
        return _load_best_encoder(say, weights_dir)
    if setting == "builtin":
        from backend.vision.encoders.builtin import BuiltinEncoder

        return BuiltinEncoder()
    if _is_checkpoint_setting(setting):
        from backend.vision.encoders.yolo_cls import load_yolo_cls

        yolo_encoder = load_yolo_cls(setting, weights_dir)
        yolo_encoder.use_fastest_runner(_compiled_dir(weights_dir), say)
        return yolo_encoder
    if "/" in setting:
        from backend.vision.encoders.clip import load_clip

        clip_encoder = load_clip(setting, say)
        clip_encoder.use_fastest_runner(_compiled_dir(weights_dir), say)
        return clip_encoder
    raise EncoderError(f"There is no encoder {setting!r}: {ENCODER_SETTING_HELP}")


def is_encoder_local(setting: str, weights_dir: Path | None = None) -> bool:
    """Whether an encoder can be loaded without a download.

    Args:
        setting: ``PRELABEL_ENCODER``.
        weights_dir: where named weights are kept.

    Raises:
        EncoderError: there is no such encoder or file.
    """
    from backend.vision.hub import find_cached_file

    setting = setting.strip()
    if setting == "auto":
        return bool(find_cached_file(DEFAULT_REPOSITORY))
    if _is_checkpoint_setting(setting):
        path = Path(setting).expanduser()
        if path.name != setting and not path.is_file():
            raise EncoderError(f"There is no file {path}: check PRELABEL_ENCODER.")
        return path.is_file() or bool(weights_dir and (weights_dir / setting).is_file())
    if "/" in setting:
        from backend.vision.encoders.clip import is_clip_local

        return is_clip_local(setting)
    if setting != "builtin":
        raise EncoderError(f"There is no encoder {setting!r}: {ENCODER_SETTING_HELP}")
    return True


def _compiled_dir(weights_dir: Path | None) -> Path | None:
    return weights_dir / "compiled" if weights_dir else None


def _is_checkpoint_setting(setting: str) -> bool:
    """Whether a setting is a ``.pt`` of ultralytics; ``model/weights.pt`` is one of open_clip."""
    path = Path(setting).expanduser()
    if path.suffix != ".pt":
        return False
    return "-cls" in path.name or path.name == setting or path.is_absolute() or path.is_file()


def _load_best_encoder(say: LogCallback, weights_dir: Path | None) -> Encoder:
    """The best encoder that can be had here: CLIP, a small checkpoint, or the builtin one."""
    reason = _clip_unavailable_reason()
    if not reason:
        try:
            encoder = load_encoder(DEFAULT_CLIP, say=say, weights_dir=weights_dir)
            say(f"Encoder: {encoder.name}, the best for most images; it knows labels by name.")
            return encoder
        except EncoderError as error:
            reason = str(error).rstrip(".")
    checkpoint_path = _find_yolo_cls(weights_dir)
    if checkpoint_path is not None:
        say(f"Encoder: {checkpoint_path}, found on disk ({reason}).")
        return load_encoder(str(checkpoint_path), say=say, weights_dir=weights_dir)
    say(f"Encoder: builtin, which needs no download ({reason}).")
    return load_encoder("builtin", say=say)


def _clip_unavailable_reason() -> str:
    """Why the default CLIP cannot be had; empty when it can. Does not import open_clip."""
    from backend.vision.hub import find_cached_file, hub_unavailable_reason

    if find_cached_file(DEFAULT_REPOSITORY):
        return ""
    reason = hub_unavailable_reason()
    return f"the CLIP weights are not on this machine, and {reason}" if reason else ""


def _find_yolo_cls(weights_dir: Path | None) -> Path | None:
    folders = [*([weights_dir] if weights_dir else []), Path.cwd()]
    return next(
        (folder / DEFAULT_YOLO_CLS for folder in folders if (folder / DEFAULT_YOLO_CLS).is_file()),
        None,
    )
