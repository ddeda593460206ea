"""Load the encoder for a ``PRELABEL_ENCODER`` setting.

To add a family, write one module with its encoder and add an entry to ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.callbacks import LogCallback
from backend.errors import EncoderError
from backend.vision.encoders.base import (
    DEFAULT_CLIP,
    ENCODER_SETTING_HELP,
    INSTALLED_ENCODER,
    Encoder,
    NetworkEncoder,
)
from backend.vision.encoders.efficientnet import VARIANTS as EFFICIENTNET_VARIANTS
from backend.vision.encoders.efficientnet import EfficientNetEncoder, is_efficientnet_local

DEFAULT_REPOSITORY = "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"
"""Repository of the default CLIP weights on the Hugging Face hub."""


@dataclass(frozen=True)
class EncoderFamily:
    """Loader of one family of encoders; imports its modules on first use.

    Attributes:
        matches: returns whether a setting belongs to the family.
        load: (setting, weights folder, log callback) → encoder.
        is_local: (setting, weights folder) → whether the encoder loads without a download.
    """

    matches: Callable[[str], bool]
    load: Callable[[str, Path | None, LogCallback], Encoder]
    is_local: Callable[[str, Path | None], bool]


def load_encoder(setting: str, *, log: LogCallback, weights_dir: Path | None = None) -> Encoder:
    """Load the encoder for a setting.

    Args:
        setting: ``PRELABEL_ENCODER``.
        log: receives the choice of ``auto`` and licence restrictions.
        weights_dir: folder of ultralytics weights and converted networks.

    Raises:
        EncoderError: there is no such encoder, or its weights are not available.
    """
    setting = setting.strip()
    if setting == "auto":
        return _load_best_encoder(log, weights_dir)
    encoder = _family_of(setting).load(setting, weights_dir, log)
    if isinstance(encoder, NetworkEncoder):
        encoder.use_fastest_runner(weights_dir / "compiled" if weights_dir else None, log)
    return encoder


def is_encoder_local(setting: str, weights_dir: Path | None = None) -> bool:
    """Return whether an encoder can be loaded without a download.

    Args:
        setting: ``PRELABEL_ENCODER``.
        weights_dir: folder of ultralytics weights.

    Raises:
        EncoderError: there is no such encoder or file.
    """
    setting = setting.strip()
    if setting == "auto":
        from backend.vision.hub import find_cached_file

        return bool(find_cached_file(DEFAULT_REPOSITORY))
    return _family_of(setting).is_local(setting, weights_dir)


def embeds_text(setting: str) -> bool:
    """Return whether the encoder for a setting embeds label names and descriptions, as CLIP does.

    Args:
        setting: ``PRELABEL_ENCODER``; for ``auto`` it is checked whether CLIP is available.
    """
    setting = setting.strip()
    if setting == "auto":
        return not _clip_unavailable_reason()
    return "/" in setting and not _is_checkpoint_setting(setting)


def _load_builtin(setting: str, weights_dir: Path | None, log: LogCallback) -> Encoder:
    from backend.vision.encoders.builtin import BuiltinEncoder

    return BuiltinEncoder()


def _is_checkpoint_setting(setting: str) -> bool:
    """Return whether a setting is an ultralytics ``.pt``, not open_clip's ``model/weights.pt``."""
    path = Path(setting).expanduser()
    if path.suffix != ".pt":
        return False
    return "-cls" in path.name or path.name == setting or path.is_absolute() or path.is_file()


def _load_yolo_cls(setting: str, weights_dir: Path | None, log: LogCallback) -> Encoder:
    from backend.vision.encoders.yolo_cls import load_yolo_cls

    return load_yolo_cls(setting, weights_dir)


def _is_yolo_cls_local(setting: str, weights_dir: Path | None) -> bool:
    from backend.vision.encoders.yolo_cls import is_yolo_cls_local

    return is_yolo_cls_local(setting, weights_dir)


def _load_clip(setting: str, weights_dir: Path | None, log: LogCallback) -> Encoder:
    from backend.vision.encoders.clip import load_clip

    return load_clip(setting, log)


def _is_clip_local(setting: str, weights_dir: Path | None) -> bool:
    from backend.vision.encoders.clip import is_clip_local

    return is_clip_local(setting)


FAMILIES = (
    EncoderFamily(lambda setting: setting == "builtin", _load_builtin, lambda *_: True),
    EncoderFamily(
        lambda setting: setting in EFFICIENTNET_VARIANTS,
        lambda setting, *_: EfficientNetEncoder(setting),
        lambda setting, *_: is_efficientnet_local(setting),
    ),
    EncoderFamily(_is_checkpoint_setting, _load_yolo_cls, _is_yolo_cls_local),
    EncoderFamily(lambda setting: "/" in setting, _load_clip, _is_clip_local),
)
"""All families in order of precedence."""


def _family_of(setting: str) -> EncoderFamily:
    for family in FAMILIES:
        if family.matches(setting):
            return family
    raise EncoderError(f"There is no encoder {setting!r}: {ENCODER_SETTING_HELP}")


def _load_best_encoder(log: LogCallback, weights_dir: Path | None) -> Encoder:
    """Load CLIP; fall back to the encoder that is installed with Prelabel."""
    reason = _clip_unavailable_reason()
    if not reason:
        try:
            encoder = load_encoder(DEFAULT_CLIP, log=log, weights_dir=weights_dir)
            log(f"Encoder: {encoder.name}, the best for most images; it embeds label names too.")
            return encoder
        except EncoderError as error:
            reason = str(error).rstrip(".")
    log(f"Encoder: {INSTALLED_ENCODER}, which needs no download ({reason}).")
    return load_encoder(INSTALLED_ENCODER, log=log, weights_dir=weights_dir)


def _clip_unavailable_reason() -> str:
    """Return why the default CLIP weights are unavailable; empty if available."""
    from backend.vision.hub import find_cached_file, hub_unavailable_reason

    if find_cached_file(DEFAULT_REPOSITORY):
        return ""
    reason = hub_unavailable_reason()
    return f"the CLIP weights are not on this machine, and {reason}" if reason else ""
