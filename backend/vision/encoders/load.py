"""Load the encoder that a setting names, and choose one for ``auto``."""

from __future__ import annotations

from pathlib import Path

from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.encoders.base import DEFAULT_CLIP, SMALL, SPELLINGS, Encoder

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
        return _best(say, weights_dir)
    if setting == "builtin":
        from backend.vision.encoders.builtin import BuiltinEncoder

        return BuiltinEncoder()
    if _names_a_checkpoint(setting):
        from backend.vision.encoders.yolo_cls import load_yolo_cls

        small = load_yolo_cls(setting, weights_dir)
        small.hasten(_compiled(weights_dir), say)
        return small
    if "/" in setting:
        from backend.vision.encoders.clip import load_clip

        clip = load_clip(setting, say)
        clip.hasten(_compiled(weights_dir), say)
        return clip
    raise EncoderError(f"There is no encoder {setting!r}: {SPELLINGS}")


def here(setting: str, weights_dir: Path | None = None) -> bool:
    """Whether an encoder can be loaded without a download.

    Args:
        setting: ``PRELABEL_ENCODER``.
        weights_dir: where named weights are kept.

    Raises:
        EncoderError: there is no such encoder or file.
    """
    from backend.vision.hub import kept_file

    setting = setting.strip()
    if setting == "auto":
        return bool(kept_file(DEFAULT_REPOSITORY))
    if _names_a_checkpoint(setting):
        path = Path(setting).expanduser()
        if path.name != setting and not path.is_file():
            raise EncoderError(f"There is no file {path}: check PRELABEL_ENCODER.")
        return path.is_file() or bool(weights_dir and (weights_dir / setting).is_file())
    if "/" in setting:
        from backend.vision.encoders.clip import clip_here

        return clip_here(setting)
    if setting != "builtin":
        raise EncoderError(f"There is no encoder {setting!r}: {SPELLINGS}")
    return True


def _compiled(weights_dir: Path | None) -> Path | None:
    return weights_dir / "compiled" if weights_dir else None


def _names_a_checkpoint(setting: str) -> bool:
    """Whether a setting is a ``.pt`` of ultralytics; ``model/weights.pt`` is one of open_clip."""
    path = Path(setting).expanduser()
    if path.suffix != ".pt":
        return False
    return "-cls" in path.name or path.name == setting or path.is_absolute() or path.is_file()


def _best(say: LogCallback, weights_dir: Path | None) -> Encoder:
    """The best encoder that can be had here: CLIP, a small checkpoint, or the builtin one."""
    why_not = _why_no_clip()
    if not why_not:
        try:
            encoder = load_encoder(DEFAULT_CLIP, say=say, weights_dir=weights_dir)
            say(f"Encoder: {encoder.name}, the best for most images; it knows labels by name.")
            return encoder
        except EncoderError as error:
            why_not = str(error).rstrip(".")
    small = _small_checkpoint(weights_dir)
    if small is not None:
        say(f"Encoder: {small}, found on disk ({why_not}).")
        return load_encoder(str(small), say=say, weights_dir=weights_dir)
    say(f"Encoder: builtin, which needs no download ({why_not}).")
    return load_encoder("builtin", say=say)


def _why_no_clip() -> str:
    """Why the default CLIP cannot be had; empty when it can. Does not import open_clip."""
    from backend.vision.hub import kept_file, why_not_asked

    if kept_file(DEFAULT_REPOSITORY):
        return ""
    why_not = why_not_asked()
    return f"the CLIP weights are not on this machine, and {why_not}" if why_not else ""


def _small_checkpoint(weights_dir: Path | None) -> Path | None:
    folders = [*([weights_dir] if weights_dir else []), Path.cwd()]
    return next((folder / SMALL for folder in folders if (folder / SMALL).is_file()), None)
