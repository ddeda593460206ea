"""Things that get in the way: labels, canes, cans, tools, a hand, a leaf close to the lens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes.greenhouse import GREENS, THINGS, Pen, ink, pick


def cane(pen: Pen, foot: tuple[float, float], tall: float, rng: np.random.Generator) -> None:
    """A bamboo cane with a clip or two, up from the pot."""
    (x, y), wide = foot, max(2, round(tall * 0.016))
    x += rng.normal(0, tall * 0.02)
    top = (x + rng.normal(0, tall * 0.05), y - tall * rng.uniform(0.8, 1.15))
    wood = pick(rng, ((184, 156, 100), (120, 132, 76), (90, 96, 90)))
    pen.line((x, y, *top), fill=ink(wood, 0.7), width=wide + 1)
    pen.line((x, y, *top), fill=ink(wood), width=max(1, wide // 2))


def label(pen: Pen, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
    """A plant label stuck into the soil, with writing on it."""
    x, y = at
    wide, lean = size * 0.28, rng.normal(0, size * 0.15)
    card = pick(rng, ((240, 238, 228), (238, 214, 70), (206, 170, 120), (220, 80, 60)))
    top = y - size
    pen.polygon(
        [
            (x - wide, top),
            (x + wide, top),
            (x + wide + lean, y - size * 0.3),
            (x + lean, y),
            (x - wide + lean, y - size * 0.3),
        ],
        fill=ink(card),
    )
    for line in range(1, 4):
        row = top + line * size * 0.15
        pen.line((x - wide * 0.7, row, x + wide * rng.uniform(0, 0.8), row), fill=(60, 60, 70))


def watering_can(pen: Pen, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
    """A can with spout and handle, standing in front or beside."""
    (x, y), paint = at, pick(rng, THINGS)
    side = -1 if rng.random() < 0.5 else 1
    wide = max(2, round(size * 0.09))
    spout = (x + side * size * 0.2, y - size * 0.3, x + side * size * 1.1, y - size * 1.1)
    pen.line(spout, fill=ink(paint, 0.8), width=wide * 2)
    middle = x - side * size * 0.15
    ring = (middle - size * 0.75, y - size * 1.3, middle + size * 0.75, y - size * 0.1)
    start, end = (120, 330) if side > 0 else (210, 420)
    pen.arc(ring, start, end, fill=ink(paint, 0.65), width=wide)
    for strip, light in enumerate((0.7, 0.9, 1.15, 1.0, 0.8, 0.6)):
        left = x + (strip * 0.18 - 0.5) * size
        pen.rectangle((left, y - size * 0.9, left + size * 0.17, y), fill=ink(paint, light))
    pen.ellipse((x - size * 0.5, y - size, x + size * 0.57, y - size * 0.8), fill=ink(paint, 0.5))


def bottle(pen: Pen, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
    """A spray bottle."""
    (x, y), paint = at, pick(rng, THINGS)
    wide = size * 0.24
    for strip, light in zip((-1.0, -0.5, 0.0, 0.5), (0.75, 1.05, 0.95, 0.7), strict=True):
        left = x + strip * wide
        pen.rectangle((left, y - size * 0.7, left + wide * 0.5, y), fill=ink(paint, light))
    pen.polygon(
        [(x - wide, y - size * 0.7), (x + wide, y - size * 0.7), (x, y - size)],
        fill=ink(paint, 0.85),
    )
    head = pick(rng, THINGS)
    pen.rectangle((x - wide, y - size * 1.12, x + wide * 0.5, y - size * 0.92), fill=ink(head))


def trowel(pen: Pen, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
    """A trowel stuck in the ground."""
    (x, y), grip = at, pick(rng, THINGS)
    lean = rng.normal(0, 0.35)

    def place(up: float, aside: float = 0.0) -> tuple[float, float]:
        return x + size * (lean * up + aside), y - size * up

    blade = [place(0), place(0.35, -0.16), place(0.6, -0.13), place(0.6, 0.13), place(0.35, 0.16)]
    pen.polygon(blade, fill=(146, 150, 152))
    pen.line((*place(0), *place(0.6)), fill=(176, 180, 182), width=max(2, round(size * 0.08)))
    pen.line((*place(0.6), *place(0.85)), fill=(96, 98, 100), width=max(2, round(size * 0.07)))
    pen.line((*place(0.85), *place(1.4)), fill=ink(grip), width=max(3, round(size * 0.15)))


def hand(pen: Pen, at: tuple[float, float], size: float, rng: np.random.Generator) -> None:
    """A hand or a glove reaching in from the side, fingers towards the plant."""
    (x, y), side = at, -1.0 if rng.random() < 0.5 else 1.0
    size *= 0.7
    skin = pick(rng, HANDS)
    elbow = (x + side * size * 5, y + size * rng.uniform(0.6, 2.5))
    pen.line((x, y, *elbow), fill=ink(skin, 0.9), width=round(size * 0.7))
    cuff = (x + side * size * 1.3, y + (elbow[1] - y) * 0.26)
    pen.line((*cuff, *elbow), fill=ink(pick(rng, THINGS)), width=round(size * 1.1))
    _round(pen, (x, y), size * 0.55, ink(skin))
    for finger, reach in enumerate((0.9, 1.2, 1.25, 1.1, 0.85)):
        row = y + size * (finger - 2.2) * 0.24
        tip = (x - side * size * reach, row + size * (finger - 2) * 0.12)
        fill, wide = ink(skin, 0.82 + 0.09 * (finger % 3)), size * 0.13
        pen.line((x, row, *tip), fill=fill, width=max(2, round(wide * 2)))
        _round(pen, tip, wide, fill)


def _round(pen: Pen, at: tuple[float, float], size: float, fill: tuple[int, int, int]) -> None:
    pen.ellipse((at[0] - size, at[1] - size, at[0] + size, at[1] + size), fill=fill)


HANDS = ((224, 172, 138), (150, 100, 72), (92, 62, 46), (70, 110, 170), (220, 190, 80))
Prop = Callable[[Pen, tuple[float, float], float, np.random.Generator], None]
STANDING: tuple[Prop, ...] = (watering_can, bottle, trowel, label, hand)


def foreground(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Something close to the lens and out of focus, over one corner of the picture."""
    mask = Image.new("L", picture.size)
    pen = ImageDraw.Draw(mask)
    wide, tall = picture.size
    x, y = float(rng.choice([0.0, wide])), float(rng.choice([rng.uniform(0, tall), tall]))
    for _ in range(int(rng.integers(1, 4))):
        long, angle = tall * rng.uniform(0.2, 0.45), rng.uniform(0, 6.28)
        across = np.array([np.cos(angle), np.sin(angle)]) * long
        bend = np.array([-across[1], across[0]]) * 0.28
        points = [(0.0, 0.0), *(across * 0.5 + bend).reshape(1, 2), across, across * 0.5 - bend]
        pen.polygon([(x + float(p[0]), y + float(p[1])) for p in points], fill=230)
    soft = mask.filter(ImageFilter.BoxBlur(tall * rng.uniform(0.012, 0.03)))
    colour = pick(rng, GREENS if rng.random() < 0.75 else THINGS)
    return Image.composite(Image.new("RGB", picture.size, ink(colour)), picture, soft)
