"""Label names → text prototypes: what a class looks like in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder


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
WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
JOINTS = re.compile(r"[_\s]+|(?<=\w)-+(?=\w)")


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
        labels: K labels.

    Returns:
        (K, d) float32 of unit length: mean over words and templates, the hint added.

    Raises:
        EncoderError: the encoder knows no texts.
    """
    if not labels:
        return np.zeros((0, encoder.dim), dtype=np.float32)
    texts = list(dict.fromkeys(t for label in labels for t in (*_sentences(label), *_hint(label))))
    known = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    return np.stack([_prototype(label, known) for label in labels])


def readable(name: str) -> str:
    """A label name as a person would write it.

    Examples:
        >>> readable("ripe_red-Tomato")
        'ripe red tomato'
        >>> readable("powderyMildew")
        'powdery mildew'
        >>> readable("BMWCar 3")
        'bmw car 3'
    """
    return " ".join(JOINTS.sub(" ", WORD_ENDS.sub(" ", name)).split()).lower()


def _sentences(label: LabelText) -> list[str]:
    words = [readable(word) for word in label.names or (label.name,)]
    return [template.format(word) for word in words for template in TEMPLATES]


def _hint(label: LabelText) -> list[str]:
    return [label.hint.strip()] if label.hint.strip() else []


def _prototype(label: LabelText, known: Mapping[str, Floats]) -> Floats:
    direction = _unit(np.mean([known[text] for text in _sentences(label)], axis=0))
    for text in _hint(label):
        direction = _unit(direction + HINT_WEIGHT * known[text])
    return direction


def _unit(vector: npt.ArrayLike) -> Floats:
    values = np.asarray(vector, dtype=np.float32)
    return values / max(float(np.linalg.norm(values)), 1e-12)
