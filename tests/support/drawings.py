"""Draw objects at known positions, as test data for detection."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPE_COLOURS = {"disc": (206, 62, 52), "square": (60, 84, 190)}


@dataclass(frozen=True)
class DrawnObject:
    """One object.

    Attributes:
        label: ``disc`` or ``square``.
        box: x0 y0 x1 y1, 0 to 1.
    """

    label: str
    box: tuple[float, float, float, float]

    @property
    def center(self) -> tuple[float, float]:
        """Center x, y, 0 to 1."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Drawing:
    """An image and its objects."""

    image: Image.Image
    objects: tuple[DrawnObject, ...]

    def to_png(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return file.getvalue()


def make_drawing(
    number: int,
    size: tuple[int, int] = (160, 120),
    labels: tuple[str, ...] = ("disc", "square"),
    max_objects: int = 5,
    radius: tuple[float, float] = (7, 13),
) -> Drawing:
    """Draw discs and squares that do not touch, on noise; each number gives another image."""
    rng = np.random.default_rng([7, number])
    noise = rng.normal(0, 22, (size[1], size[0], 3)) + rng.normal(120, 12, 3)
    image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.7)
    )
    pen = ImageDraw.Draw(image)
    objects: list[DrawnObject] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(0, max_objects + 1)) * 4):
        if len(objects) >= max_objects:
            break
        r = float(rng.uniform(*radius))
        x, y = (float(rng.uniform(r + 1, edge - r - 1)) for edge in size)
        if any(np.hypot(x - a, y - b) < (r + c) * 1.25 for a, b, c in circles):
            continue
        circles.append((x, y, r))
        label = str(rng.choice(labels))
        object_colour = tuple(int(c + rng.normal(0, 12)) for c in SHAPE_COLOURS[label])
        (pen.ellipse if label == "disc" else pen.rectangle)(
            (x - r, y - r, x + r, y + r), fill=object_colour
        )
        corners = (x - r, y - r, x + r + 1, y + r + 1)
        objects.append(DrawnObject(label, tuple(c / size[i % 2] for i, c in enumerate(corners))))  # type: ignore[arg-type]
    return Drawing(image, tuple(objects))


SHAPE_LABELS = ("disc", "square")


def make_drawings(count: int, start: int, *labels: str, **named: Any) -> list[Drawing]:
    """Draw several images with these labels."""
    return [make_drawing(i, labels=labels, **named) for i in range(start, start + count)]
