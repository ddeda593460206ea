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


PROMPT_TEMPLATES = (
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
WORD_BOUNDARIES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
WORD_SEPARATORS = re.compile(r"[_\s]+|(?<=\w)-+(?=\w)")


@dataclass(frozen=True)
class LabelPrompt:
    """What is known of a label in words.

    Attributes:
        name: the label.
        names: other words for it; used instead of the name where given.
        hint: a sentence that describes it.
    """

    name: str
    names: tuple[str, ...] = ()
    hint: str = ""


def compute_text_prototypes(
    encoder: Encoder, labels: Sequence[LabelPrompt]
) -> npt.NDArray[np.float32]:
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
    texts = list(
        dict.fromkeys(
            t for label in labels for t in (*_prompt_sentences(label), *_hint_sentences(label))
        )
    )
    embedding_by_text = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    return np.stack([_mean_prototype(label, embedding_by_text) for label in labels])


def humanize_name(name: str) -> str:
    """A label name as a person would write it.

    Examples:
        >>> humanize_name("ripe_red-Tomato")
        'ripe red tomato'
        >>> humanize_name("powderyMildew")
        'powdery mildew'
        >>> humanize_name("BMWCar 3")
        'bmw car 3'
    """
    return " ".join(WORD_SEPARATORS.sub(" ", WORD_BOUNDARIES.sub(" ", name)).split()).lower()


def _prompt_sentences(label: LabelPrompt) -> list[str]:
    words = [humanize_name(word) for word in label.names or (label.name,)]
    return [template.format(word) for word in words for template in PROMPT_TEMPLATES]


def _hint_sentences(label: LabelPrompt) -> list[str]:
    return [label.hint.strip()] if label.hint.strip() else []


def _mean_prototype(label: LabelPrompt, embedding_by_text: Mapping[str, Floats]) -> Floats:
    direction = _normalize(
        np.mean([embedding_by_text[text] for text in _prompt_sentences(label)], axis=0)
    )
    for text in _hint_sentences(label):
        direction = _normalize(direction + HINT_WEIGHT * embedding_by_text[text])
    return direction


def _normalize(vector: npt.ArrayLike) -> Floats:
    values = np.asarray(vector, dtype=np.float32)
    return values / max(float(np.linalg.norm(values)), 1e-12)
