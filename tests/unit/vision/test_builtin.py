"""The encoder that needs no download."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.vision.encoders.builtin import BuiltinEncoder
from backend.vision.encoders.load import load_encoder

Draw = ImageDraw.ImageDraw
GREEN, BROWN = (70, 130, 60), (150, 120, 60)


@pytest.mark.parametrize("colour", ["black", "white", "grey", "red"])
def test_a_uniform_image_has_an_embedding(colour: str) -> None:
    found = BuiltinEncoder().encode_images([Image.new("RGB", (90, 60), colour)])
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_a_grey_image_has_the_embedding_of_its_rgb_copy(pictures: list[Image.Image]) -> None:
    grey = pictures[3].convert("L")
    one, two = BuiltinEncoder().encode_images([grey, grey.convert("RGB")])
    np.testing.assert_array_equal(one, two)


def test_another_process_computes_the_same_embedding(pictures: list[Image.Image]) -> None:
    program = (
        "import numpy as np, sys; from PIL import Image;"
        "from backend.vision.encoders.load import load_encoder;"
        "image = Image.linear_gradient('L').rotate(30).convert('RGB');"
        "vector = load_encoder('builtin', log=print).encode_images([image]);"
        "sys.stdout.buffer.write(vector.tobytes()); assert 'torch' not in sys.modules"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    image = Image.linear_gradient("L").rotate(30).convert("RGB")
    ours = load_encoder("builtin", log=pytest.fail).encode_images([image])
    np.testing.assert_allclose(np.frombuffer(other, np.float32), ours[0], atol=1e-6)


def test_colour_separates_equal_shapes() -> None:
    assert _told_apart(lambda pen, box, two: pen.ellipse(box, fill=BROWN if two else GREEN)) > 0.9


def test_shape_separates_equal_colours() -> None:
    def draw(pen: Draw, box: tuple[float, float, float, float], two: bool) -> None:
        (pen.ellipse if two else pen.rectangle)(box, fill=GREEN)

    assert _told_apart(draw) > 0.9


def test_texture_separates_equal_outlines() -> None:
    def draw(pen: Draw, box: tuple[float, float, float, float], two: bool) -> None:
        pen.rectangle(box, fill=GREEN)
        x0, y0, x1, y1 = box
        for step in range(0, 60, 6):
            ends = (x0, y0 + step, x1, y0 + step) if two else (x0 + step, y0, x0 + step, y1)
            pen.line(ends, fill=BROWN, width=2)

    assert _told_apart(draw) > 0.9


def test_different_pictures_are_far_apart(pictures: list[Image.Image]) -> None:
    found = BuiltinEncoder().encode_images([p for p in pictures if min(p.size) > 20])
    assert (found @ found.T - np.eye(len(found))).max() < 0.9


def _told_apart(draw: object) -> float:
    """Share of drawn scenes whose class the nearer of two class means of 20 tells."""
    rng = np.random.default_rng(0)
    scenes = [_scene(draw, bool(i % 2), rng) for i in range(120)]
    vectors = BuiltinEncoder().encode_images(scenes)
    truth = np.arange(120) % 2
    means = np.stack([vectors[:40][truth[:40] == k].mean(axis=0) for k in (0, 1)])
    return float(((vectors[40:] @ means.T).argmax(axis=1) == truth[40:]).mean())


def _scene(draw: object, two: bool, rng: np.random.Generator) -> Image.Image:
    """An object of about 60 pixels somewhere near the middle of a noisy 160 × 120 picture."""
    noise = rng.integers(90, 130, (120, 160, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    x, y = rng.uniform(35, 65), rng.uniform(15, 45)
    draw(ImageDraw.Draw(image), (x, y, x + 60, y + 60), two)  # type: ignore[operator]
    return image
