"""Simulate the light and the camera, so that a drawing resembles a photo."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from backend.arrays import Floats
from demo.scenes.greenhouse import smooth_noise

LIGHT_GAINS = {
    "daylight": (1.0, 1.0, 1.0),
    "morning": (1.12, 1.0, 0.84),
    "sodium": (1.25, 0.98, 0.58),
    "shade": (0.9, 0.98, 1.12),
    "grow lamp": (1.12, 0.86, 1.12),
    "under leaves": (0.92, 1.06, 0.86),
}
"""Gain on red, green and blue for each kind of light."""

LIGHT_PROBABILITIES = (0.3, 0.2, 0.14, 0.16, 0.06, 0.14)
"""Probability of each kind of light."""

BLURRED_SHARE = 0.5
"""Share of photos that are slightly out of focus."""

RECOMPRESSED_SHARE = 0.3
"""Share of photos that are compressed again, as a messenger does."""

Size = tuple[int, int]


def simulate_camera(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply the lighting, exposure, blur, noise and compression of a phone camera."""
    graded = image.convert("RGB", _sample_colour_matrix(rng))
    pixels = np.asarray(graded, np.float32) * _illumination(image.size, rng)[..., None]
    pixels += (_window_haze(image.size, rng) + _sensor_noise(image.size, rng))[..., None]
    photo = Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))
    if rng.random() < BLURRED_SHARE:
        photo = photo.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 0.8)))
    return (
        _compress_jpeg(photo, int(rng.integers(40, 75)))
        if rng.random() < RECOMPRESSED_SHARE
        else photo
    )


def _sample_colour_matrix(rng: np.random.Generator) -> tuple[float, ...]:
    """Sample the white balance, contrast and saturation as a 3 by 4 colour matrix."""
    light_gain = np.array(
        list(LIGHT_GAINS.values())[int(rng.choice(len(LIGHT_GAINS), p=LIGHT_PROBABILITIES))]
    )
    gain = (1 + (light_gain - 1) * rng.uniform(0.1, 0.6)) * np.exp(rng.normal(0.08, 0.08))
    contrast, saturation = rng.uniform(0.92, 1.14), rng.uniform(0.9, 1.15)
    saturation_matrix = np.eye(3) * saturation + (1 - saturation) / 3
    matrix = np.column_stack(
        [contrast * saturation_matrix * gain, np.full(3, 118 * (1 - contrast))]
    )
    return tuple(matrix.ravel().tolist())


def _illumination(size: Size, rng: np.random.Generator) -> Floats:
    """Sample the gain ``(rows, columns)``: patches of sun, and vignetting."""
    patches = 1 + _random_crop(_sunlight_patches(), size, rng) * np.float32(
        rng.choice([0.03, 0.06, 0.14])
    )
    across = np.linspace(-1, 1, size[0], dtype=np.float32)[None] ** 2
    down = np.linspace(-1, 1, size[1], dtype=np.float32)[:, None] ** 2
    return np.asarray(patches * (1 - np.float32(rng.uniform(0.02, 0.2)) * (across + down)))


def _window_haze(size: Size, rng: np.random.Generator) -> Floats:
    """Sample the haze ``(rows, columns)`` from a window at one side."""
    across = np.linspace(0, 1, size[0], dtype=np.float32)[None]
    down = np.linspace(1, 0, size[1], dtype=np.float32)[:, None]
    across = across if rng.random() < 0.5 else 1 - across
    strength = np.float32(rng.choice([0.0, 12.0, 40.0], p=[0.4, 0.4, 0.2]) * rng.random())
    return np.asarray(strength * (across * 0.6 + down * 0.4) ** 2)


def _sensor_noise(size: Size, rng: np.random.Generator) -> Floats:
    """Sample the sensor noise ``(rows, columns)``, in grey levels."""
    return np.asarray(_random_crop(_noise_tile(), size, rng) * np.float32(rng.uniform(1.0, 6)))


def _random_crop(tile: Floats, size: Size, rng: np.random.Generator) -> Floats:
    """Crop a 512 by 512 tile to the size of the image at a random position."""
    x, y = int(rng.integers(0, 512 - size[0])), int(rng.integers(0, 512 - size[1]))
    return tile[y : y + size[1], x : x + size[0]]


@cache
def _noise_tile() -> Floats:
    return np.random.default_rng(1).normal(0, 1, (512, 512)).astype(np.float32)


@cache
def _sunlight_patches() -> Floats:
    """Return patches of light of two sizes, with mean 0 and standard deviation about 1."""
    rng = np.random.default_rng(2)
    return np.asarray(0.8 * smooth_noise(5, 5, rng) + 0.5 * smooth_noise(16, 16, rng))


def _compress_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image as JPEG and decode it again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
