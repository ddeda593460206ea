"""Label names → text prototypes: what a class looks like in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from backend.vision.encoder import Encoder

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "{}.",
)
"""A few of the templates of Radford et al. 2021 (CLIP), appendix A.4; their mean is what counts."""
HINT_WEIGHT = 1.0
"""A hint, a sentence somebody wrote for this project, counts as much as all templates."""


@dataclass(frozen=True)
class LabelText:
    """What is known of a label in words.

    Attributes:
        name: the label.
        names: other words for it; used instead of the name where given.
        hint: a sentence that describes it.
    """

    name: str
    names: tuple[str, ...] = ()
    hint: str = ""


def prototypes(encoder: Encoder, labels: Sequence[LabelText]) -> npt.NDArray[np.float32]:
    """A direction in the embedding space for each label.

    Args:
        encoder: one with text.
        labels: the labels.

    Returns:
        (K, d) float32 of unit length: mean over words and templates, the hint added.
    """
    return np.stack([_prototype(encoder, label) for label in labels])


def readable(name: str) -> str:
    """A label name as a person would write it.

    Example:
        >>> readable("ripe_redTomato-2")
        'ripe red tomato 2'
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\\-]+", " ", name))
    return " ".join(apart.split()).lower()


def _prototype(encoder: Encoder, label: LabelText) -> npt.NDArray[np.float32]:
    words = [readable(word) for word in label.names or (label.name,)]
    texts = [template.format(word) for word in words for template in TEMPLATES]
    direction = _unit(encoder.encode_texts(texts).mean(axis=0))
    if label.hint:
        direction = _unit(direction + HINT_WEIGHT * encoder.encode_texts([label.hint])[0])
    return direction


def _unit(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
