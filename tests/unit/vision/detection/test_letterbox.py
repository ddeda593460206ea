"""Images of every shape into the input and places back again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.vision.detection.letterbox import PADDING_GREY, letterbox, stretch

SIZES = {
    "tall": (300, 700),
    "wide": (1000, 333),
    "square": (512, 512),
    "as large as the input": (320, 240),
    "one pixel": (1, 1),
    "a thread": (3, 2000),
    "50 megapixels": (9000, 5600),
}
BOXES = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.45, 0.9], [0.97, 0.5, 1, 0.53]], dtype=np.float32)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_stretched_image_fills_the_square_and_boxes_map_back(size: tuple[int, int]) -> None:
    pixels, box = stretch(Image.new("RGB", size, (250, 0, 0)), 320)
    assert pixels.shape == (1, 3, 320, 320)
    assert (pixels[0, 0].min(), pixels[0, 1:].max()) == (pytest.approx(250 / 255), 0)
    np.testing.assert_allclose(box.to_image_boxes(BOXES * 320), BOXES, atol=1e-6)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_boxes_map_back_to_half_a_pixel_of_the_input(size: tuple[int, int]) -> None:
    pixels, box = letterbox(Image.new("RGB", size, (250, 0, 0)), 320, 32)
    _, _, height, width = pixels.shape
    assert pixels.dtype == np.float32
    assert max(height, width) == 320
    assert (height % 32, width % 32) == (0, 0)

    # Where a camera that scales both directions alike would see them.
    factor = 320 / max(size)
    inside = np.array([*size, *size]) * factor
    seen = (BOXES * inside + np.array([*box.offset, *box.offset])).astype(np.float32)
    off = np.abs(box.to_image_boxes(seen) - BOXES) * inside
    assert off.max() <= 0.5


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_padding_is_grey_and_the_image_is_at_its_offset(size: tuple[int, int]) -> None:
    pixels, box = letterbox(Image.new("RGB", size, (250, 0, 0)), 320, 32)
    left, top = box.offset
    wide, high = box.resized_size
    inside = np.zeros(pixels.shape[2:], dtype=bool)
    inside[top : top + high, left : left + wide] = True
    red = np.array([250, 0, 0]) / 255
    np.testing.assert_allclose(pixels[0][:, inside].T, np.tile(red, (inside.sum(), 1)), atol=1e-6)
    np.testing.assert_allclose(pixels[0][:, ~inside], PADDING_GREY / 255, atol=1e-6)
    assert abs(left - (pixels.shape[3] - wide) / 2) <= 0.5
    assert abs(top - (pixels.shape[2] - high) / 2) <= 0.5


def test_the_corners_of_the_image_are_the_corners_of_the_result() -> None:
    image = Image.new("RGB", (640, 200))
    _, box = letterbox(image, 320, 32)  # 320 by 100 pixels, 14 grey ones above
    corners = np.array([[0, 14, 320, 114]], dtype=np.float32)
    np.testing.assert_allclose(box.to_image_boxes(corners), [[0, 0, 1, 1]], atol=1e-6)
    beyond = np.array([[-32, 4, 352, 124]], dtype=np.float32)
    np.testing.assert_allclose(box.to_image_boxes(beyond), [[-0.1, -0.1, 1.1, 1.1]], atol=1e-6)


def test_a_stride_of_64_pads_to_multiples_of_64() -> None:
    pixels, _ = letterbox(Image.new("RGB", (500, 130)), 640, 64)
    assert pixels.shape == (1, 3, 192, 640)
