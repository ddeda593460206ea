"""Text prototypes: embed each label by its name and hint."""

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
"""Prompt templates from Radford et al. 2021 (CLIP), appendix A.4; embeddings are averaged."""
HINT_WEIGHT = 1.0
"""Weight of the hint's embedding relative to the mean embedding of the templates."""
WORD_BOUNDARIES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
WORD_SEPARATORS = re.compile(r"[_\s]+|(?<=\w)-+(?=\w)")


@dataclass(frozen=True)
class LabelPrompt:
    """The texts from which a label is embedded.

    Attributes:
        name: label name.
        names: synonyms that replace the name, if any.
        hint: a sentence that describes the label; may be empty.
    """

    name: str
    names: tuple[str, ...] = ()
    hint: str = ""


def compute_text_prototypes(encoder: Encoder, labels: Sequence[LabelPrompt]) -> Floats:
    """Return (K, d) float32 of unit length: the mean over names and templates, plus the hint.

    Raises:
        EncoderError: there is no text encoder.
    """
    if not labels:
        return np.zeros((0, encoder.dim), dtype=np.float32)
    sentences = (t for label in labels for t in _prompt_sentences(label) + _hint_sentences(label))
    texts = list(dict.fromkeys(sentences))
    embedding_by_text = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    return np.stack([_mean_prototype(label, embedding_by_text) for label in labels])


def humanize_name(name: str) -> str:
    """Convert a label name to lower-case words.

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
    embeddings = [embedding_by_text[text] for text in _prompt_sentences(label)]
    direction = _normalize(np.mean(embeddings, axis=0))
    for text in _hint_sentences(label):
        direction = _normalize(direction + HINT_WEIGHT * embedding_by_text[text])
    return direction


def _normalize(vector: npt.ArrayLike) -> Floats:
    values = np.asarray(vector, dtype=np.float32)
    return values / max(float(np.linalg.norm(values)), 1e-12)
