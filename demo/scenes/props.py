"""Draw objects around a plant: labels, canes, tools, a hand, leaves close to the lens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes.drawing import Pen, draw_ellipse, sample_colour, to_rgb
from demo.scenes.greenhouse import FOLIAGE_COLOURS, PROP_COLOURS


def draw_cane(
    pen: Pen, cane_base: tuple[float, float], plant_height: float, rng: np.random.Generator
) -> None:
    """Draw a bamboo cane in the pot."""
    (x, y), line_width = cane_base, max(2, round(plant_height * 0.016))
    x += rng.normal(0, plant_height * 0.02)
    top = (x + rng.normal(0, plant_height * 0.05), y - plant_height * rng.uniform(0.8, 1.15))
    wood = sample_colour(rng, ((184, 156, 100), (120, 132, 76), (90, 96, 90)))
    pen.line((x, y, *top), fill=to_rgb(wood, 0.7), width=line_width + 1)
    pen.line((x, y, *top), fill=to_rgb(wood), width=max(1, line_width // 2))


def draw_plant_label(
    pen: Pen, position: tuple[float, float], size: float, rng: np.random.Generator
) -> None:
    """Draw a plant label with writing on it."""
    x, y = position
    half_width, slant = size * 0.28, rng.normal(0, size * 0.15)
    card_colour = sample_colour(
        rng, ((240, 238, 228), (238, 214, 70), (206, 170, 120), (220, 80, 60))
    )
    top = y - size
    upper, shoulder = [(x - half_width, top), (x + half_width, top)], y - size * 0.3
    lower = [(x + half_width + slant, shoulder), (x + slant, y), (x - half_width + slant, shoulder)]
    pen.polygon([*upper, *lower], fill=to_rgb(card_colour))
    for line in range(1, 4):
        row = top + line * size * 0.15
        pen.line(
            (x - half_width * 0.7, row, x + half_width * rng.uniform(0, 0.8), row),
            fill=(60, 60, 70),
        )


def draw_watering_can(
    pen: Pen, position: tuple[float, float], size: float, rng: np.random.Generator
) -> None:
    """Draw a watering can."""
    (x, y), can_colour = position, sample_colour(rng, PROP_COLOURS)
    side = -1 if rng.random() < 0.5 else 1
    line_width = max(2, round(size * 0.09))
    spout = (x + side * size * 0.2, y - size * 0.3, x + side * size * 1.1, y - size * 1.1)
    pen.line(spout, fill=to_rgb(can_colour, 0.8), width=line_width * 2)
    middle = x - side * size * 0.15
    ring = (middle - size * 0.75, y - size * 1.3, middle + size * 0.75, y - size * 0.1)
    start, end = (120, 330) if side > 0 else (210, 420)
    pen.arc(ring, start, end, fill=to_rgb(can_colour, 0.65), width=line_width)
    for strip, brightness in enumerate((0.7, 0.9, 1.15, 1.0, 0.8, 0.6)):
        left = x + (strip * 0.18 - 0.5) * size
        pen.rectangle(
            (left, y - size * 0.9, left + size * 0.17, y), fill=to_rgb(can_colour, brightness)
        )
    pen.ellipse(
        (x - size * 0.5, y - size, x + size * 0.57, y - size * 0.8), fill=to_rgb(can_colour, 0.5)
    )


def draw_bottle(
    pen: Pen, position: tuple[float, float], size: float, rng: np.random.Generator
) -> None:
    """Draw a spray bottle."""
    (x, y), bottle_colour = position, sample_colour(rng, PROP_COLOURS)
    half_width = size * 0.24
    for strip, brightness in zip((-1.0, -0.5, 0.0, 0.5), (0.75, 1.05, 0.95, 0.7), strict=True):
        left = x + strip * half_width
        pen.rectangle(
            (left, y - size * 0.7, left + half_width * 0.5, y),
            fill=to_rgb(bottle_colour, brightness),
        )
    pen.polygon(
        [(x - half_width, y - size * 0.7), (x + half_width, y - size * 0.7), (x, y - size)],
        fill=to_rgb(bottle_colour, 0.85),
    )
    head_colour = sample_colour(rng, PROP_COLOURS)
    pen.rectangle(
        (x - half_width, y - size * 1.12, x + half_width * 0.5, y - size * 0.92),
        fill=to_rgb(head_colour),
    )


def draw_trowel(
    pen: Pen, position: tuple[float, float], size: float, rng: np.random.Generator
) -> None:
    """Draw a trowel stuck in the ground."""
    (x, y), grip_colour = position, sample_colour(rng, PROP_COLOURS)
    slant = rng.normal(0, 0.35)

    def place(height: float, sideways: float = 0.0) -> tuple[float, float]:
        return x + size * (slant * height + sideways), y - size * height

    blade = [place(0), place(0.35, -0.16), place(0.6, -0.13), place(0.6, 0.13), place(0.35, 0.16)]
    pen.polygon(blade, fill=(146, 150, 152))
    pen.line((*place(0), *place(0.6)), fill=(176, 180, 182), width=max(2, round(size * 0.08)))
    pen.line((*place(0.6), *place(0.85)), fill=(96, 98, 100), width=max(2, round(size * 0.07)))
    pen.line(
        (*place(0.85), *place(1.4)), fill=to_rgb(grip_colour), width=max(3, round(size * 0.15))
    )


def draw_hand(
    pen: Pen, position: tuple[float, float], size: float, rng: np.random.Generator
) -> None:
    """Draw a hand or a glove that reaches in from the side."""
    (x, y), side = position, -1.0 if rng.random() < 0.5 else 1.0
    size *= 0.7
    skin_colour = sample_colour(rng, HAND_COLOURS)
    elbow = (x + side * size * 5, y + size * rng.uniform(0.6, 2.5))
    pen.line((x, y, *elbow), fill=to_rgb(skin_colour, 0.9), width=round(size * 0.7))
    cuff = (x + side * size * 1.3, y + (elbow[1] - y) * 0.26)
    pen.line(
        (*cuff, *elbow), fill=to_rgb(sample_colour(rng, PROP_COLOURS)), width=round(size * 1.1)
    )
    draw_ellipse(pen, x, y, size * 0.55, size * 0.55, to_rgb(skin_colour))
    for finger, finger_length in enumerate((0.9, 1.2, 1.25, 1.1, 0.85)):
        row = y + size * (finger - 2.2) * 0.24
        tip = (x - side * size * finger_length, row + size * (finger - 2) * 0.12)
        fill, finger_radius = to_rgb(skin_colour, 0.82 + 0.09 * (finger % 3)), size * 0.13
        pen.line((x, row, *tip), fill=fill, width=max(2, round(finger_radius * 2)))
        draw_ellipse(pen, *tip, finger_radius, finger_radius, fill)


HAND_COLOURS = ((224, 172, 138), (150, 100, 72), (92, 62, 46), (70, 110, 170), (220, 190, 80))
DrawProp = Callable[[Pen, tuple[float, float], float, np.random.Generator], None]
STANDING_PROPS: tuple[DrawProp, ...] = (
    draw_watering_can,
    draw_bottle,
    draw_trowel,
    draw_plant_label,
    draw_hand,
)


def add_foreground_blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw blurred leaves close to the lens over one corner of an image."""
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    image_width, image_height = image.size
    x = float(rng.choice([0.0, image_width]))
    y = float(rng.choice([rng.uniform(0, image_height), image_height]))
    for _ in range(int(rng.integers(1, 4))):
        leaf_length, angle = image_height * rng.uniform(0.2, 0.45), rng.uniform(0, 6.28)
        leaf_axis = np.array([np.cos(angle), np.sin(angle)]) * leaf_length
        bend = np.array([-leaf_axis[1], leaf_axis[0]]) * 0.28
        points = [np.zeros(2), leaf_axis * 0.5 + bend, leaf_axis, leaf_axis * 0.5 - bend]
        pen.polygon([(x + float(p[0]), y + float(p[1])) for p in points], fill=230)
    soft_mask = mask.filter(ImageFilter.BoxBlur(image_height * rng.uniform(0.012, 0.03)))
    colour = sample_colour(rng, FOLIAGE_COLOURS if rng.random() < 0.75 else PROP_COLOURS)
    return Image.composite(Image.new("RGB", image.size, to_rgb(colour)), image, soft_mask)
