"""Text prototypes, with an encoder whose answers can be worked out by hand."""

from __future__ import annotations

import doctest
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.errors import EncoderError
from backend.vision.encoders import text_prototypes
from backend.vision.encoders.builtin import BuiltinEncoder
from backend.vision.encoders.text_prototypes import LabelPrompt, compute_text_prototypes


class Letters:
    """Counts letters: a text encoder as simple as they come."""

    id = name = "letters"
    dim = 27
    has_text = True
    logit_scale, logit_bias = 1.0, 0.0

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        raise EncoderError("Texts only.")

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = np.array([self._count(text) for text in texts], dtype=np.float32)
        unit: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def _count(self, text: str) -> list[int]:
        return [text.lower().count(chr(ord("a") + i)) for i in range(26)] + [1]


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(text_prototypes).failed == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [("RedApple", "red apple"), ("over_ripe-fruit", "over ripe fruit"), ("  a  b ", "a b")],
)
def test_label_names_become_natural_words(name: str, text: str) -> None:
    assert text_prototypes.humanize_name(name) == text


def test_a_prototype_is_the_mean_over_the_templates() -> None:
    letters = Letters()
    texts = [template.format("ripe fig") for template in text_prototypes.PROMPT_TEMPLATES]
    mean = letters.encode_texts(texts).mean(axis=0)
    found = compute_text_prototypes(letters, [LabelPrompt("Ripe_Fig")])
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_other_words_replace_the_name_and_are_averaged() -> None:
    one, other, both = compute_text_prototypes(
        Letters(),
        [LabelPrompt("fig"), LabelPrompt("pear"), LabelPrompt("class_7", ("fig", "pear"))],
    )
    assert both @ one > one @ other
    assert both @ other > one @ other
    assert both @ compute_text_prototypes(Letters(), [LabelPrompt("class_7")])[0] < both @ one


def test_a_hint_pulls_the_prototype_towards_its_sentence() -> None:
    letters, hint = Letters(), "Zebra zigzag."
    plain, hinted = compute_text_prototypes(
        letters, [LabelPrompt("fig"), LabelPrompt("fig", hint=hint)]
    )
    sentence = letters.encode_texts([hint])[0]
    assert hinted @ sentence > plain @ sentence + 0.1
    np.testing.assert_allclose(hinted @ sentence, hinted @ plain, atol=1e-5)  # weight 1: half way


def test_names_with_braces_are_not_format_strings() -> None:
    assert compute_text_prototypes(Letters(), [LabelPrompt("{x} {0}")]).shape == (1, 27)
    assert compute_text_prototypes(Letters(), []).shape == (0, 27)


def test_an_image_only_encoder_refuses_texts() -> None:
    with pytest.raises(EncoderError, match="images only"):
        compute_text_prototypes(BuiltinEncoder(), [LabelPrompt("fig")])
