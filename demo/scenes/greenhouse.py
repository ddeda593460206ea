"""What stands around a plant: the greenhouse behind it, the bench under it, its pot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.scenes.leaf_geometry import Floats

Pen = ImageDraw.ImageDraw
Pixels = NDArray[np.float32]

SKIES = ((226, 234, 238), (198, 214, 226), (236, 226, 202), (170, 186, 178), (120, 134, 140))
FRAMES = ((238, 240, 238), (120, 126, 124), (70, 82, 74), (150, 118, 84))
WALLS = ((206, 202, 190), (150, 116, 100), (120, 116, 110), (96, 104, 98), (176, 168, 150))
GREENS = ((40, 78, 36), (74, 118, 50), (110, 146, 66), (58, 92, 70), (140, 150, 70), (96, 70, 60))
THINGS = (
    (190, 60, 44),
    (44, 92, 160),
    (232, 200, 60),
    (230, 230, 224),
    (60, 62, 66),
    (160, 100, 60),
    (40, 130, 120),
    (222, 120, 50),
    (140, 60, 110),
)
SURFACES = {
    "wood": ((150, 128, 104), (112, 94, 76), (188, 168, 142)),
    "gravel": ((150, 146, 138), (122, 112, 100), (176, 170, 156)),
    "soil": ((74, 54, 40), (58, 44, 34), (98, 74, 54)),
    "metal": ((150, 156, 158), (110, 116, 116), (182, 186, 184)),
    "matting": ((60, 62, 64), (84, 96, 88), (120, 124, 120)),
}
POTS = (
    (176, 92, 58),
    (198, 120, 80),
    (44, 44, 46),
    (226, 222, 212),
    (52, 78, 124),
    (86, 104, 78),
    (134, 80, 56),
    (150, 150, 146),
)


@dataclass(frozen=True)
class Stage:
    """The frame of one picture.

    Attributes:
        width: Columns, in pixels of the finished picture.
        height: Rows.
        edge: The row where the bench ends and the background begins.
        pitch: How far the camera looks down, in radians.
    """

    width: int
    height: int
    edge: float
    pitch: float


def pick(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> Floats:
    """One of these colours, a little lighter or darker, as ``(3,)`` of 0 to 255."""
    colour = np.array(colours[int(rng.integers(len(colours)))], float)
    return np.clip(colour * rng.uniform(0.8, 1.15) + rng.normal(0, 6, 3), 0, 255)


def ink(colour: Floats, light: float = 1.0) -> tuple[int, int, int]:
    """A colour the pen takes."""
    red, green, blue = (min(max(int(part * light), 0), 255) for part in colour.tolist())
    return red, green, blue


def backdrop(stage: Stage, rng: np.random.Generator) -> Image.Image:
    """The greenhouse down to the bench, sharp: glass or a wall, far rows of plants, things."""
    top, bottom = _light(rng), _light(rng) * rng.uniform(0.45, 0.9)
    deep = int(stage.edge) + 8
    ramp = np.linspace(0, 1, deep)[:, None, None] ** rng.uniform(0.6, 1.6)
    rows = (top + (bottom - top) * ramp).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(rows, (deep, stage.width, 3)).copy())
    pen = ImageDraw.Draw(picture, "RGBA")
    _frames(pen, stage, rng)
    for _ in range(int(rng.integers(0, 4))):
        _far_row(pen, stage, rng)
    for _ in range(int(rng.integers(0, 4))):
        _thing(pen, stage, rng)
    return picture


def _light(rng: np.random.Generator) -> Floats:
    return pick(rng, SKIES if rng.random() < 0.6 else WALLS)


def _frames(pen: Pen, stage: Stage, rng: np.random.Generator) -> None:
    """Mullions and rafters of the glass."""
    fill, thick = ink(pick(rng, FRAMES)), int(rng.integers(2, 7))
    lean, gap = rng.normal(0, 25), rng.uniform(35, 120)
    for x in np.arange(rng.uniform(-60, 0), stage.width + 60, gap).tolist():
        pen.line((x, 0, x + lean, stage.edge), fill=fill, width=thick)
    for _ in range(int(rng.integers(0, 3))):
        y = rng.uniform(0, stage.edge)
        pen.line((0, y, stage.width, y + rng.normal(0, 20)), fill=fill, width=thick)


def _far_row(pen: Pen, stage: Stage, rng: np.random.Generator) -> None:
    """A row of leafy clumps on a bench far behind."""
    y, green = stage.edge * rng.uniform(0.55, 1.05), pick(rng, GREENS)
    size = stage.height * rng.uniform(0.03, 0.11)
    board = ink(pick(rng, FRAMES))
    pen.rectangle((0, y + size * 0.6, stage.width, y + size * 0.9), fill=board)
    span = np.sort(rng.uniform(-0.1, 1.1, 2)) * stage.width
    for x in np.arange(span[0], span[1], size * 0.55).tolist():
        for _ in range(2):
            across, down = rng.normal(x, size * 0.4), rng.normal(y, size * 0.35)
            wide, tall = size * rng.uniform(0.2, 0.75, 2)
            box = (across - wide, down - tall, across + wide, down + tall)
            pen.ellipse(box, fill=ink(green, rng.uniform(0.6, 1.25)))


def _thing(pen: Pen, stage: Stage, rng: np.random.Generator) -> None:
    """Something of the trade, far enough to be a mere shape: a lamp, a bag, a barrel."""
    wide, tall = stage.height * rng.uniform(0.03, 0.16, 2)
    x, y = rng.uniform(0, stage.width), stage.edge * rng.uniform(0.1, 1.1)
    fill = ink(pick(rng, THINGS if rng.random() < 0.7 else GREENS))
    box = (x - wide, y - tall, x + wide, y + tall)
    form = int(rng.integers(4))
    if form == 0:
        pen.ellipse(box, fill=fill)
    elif form == 1:
        pen.line((x, 0, x, y), fill=(40, 40, 40), width=2)
        pen.polygon([(x - wide, y), (x + wide, y), (x, y - tall)], fill=fill)
    else:
        pen.rectangle(box, fill=fill)
        pen.rectangle((x - wide, y - tall, x + wide, y - tall * 0.5), fill=ink(pick(rng, THINGS)))


def bench(picture: Image.Image, stage: Stage, rng: np.random.Generator) -> None:
    """Lay the bench, bed or floor over the lower part of a picture."""
    kind = list(SURFACES)[int(rng.integers(len(SURFACES)))]
    colour = pick(rng, SURFACES[kind])
    top = int(np.clip(stage.edge, 0, stage.height - 4))
    depth = stage.height - top
    grain = _texture(kind)
    row, column = (int(rng.integers(0, size)) for size in (512 - depth, 512 - stage.width))
    patch = grain[row : row + depth, column : column + stage.width]
    fall = np.linspace(rng.uniform(0.6, 1.05), rng.uniform(0.8, 1.15), depth)[:, None]
    lit = np.clip((patch * fall)[..., None] * colour, 0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(lit), (0, top))
    pen = ImageDraw.Draw(picture, "RGBA")
    if kind == "wood":
        _slats(pen, stage, colour, rng)
    if rng.random() < 0.5:
        lip = ink(colour, rng.uniform(0.4, 1.3))
        pen.rectangle((0, top - 2, stage.width, top + rng.uniform(0, 4)), fill=lip)
    _litter(pen, stage, rng)


def _slats(pen: Pen, stage: Stage, colour: Floats, rng: np.random.Generator) -> None:
    """The gaps between boards, running away from the camera."""
    vanish, gap = stage.width * rng.uniform(-0.2, 1.2), rng.uniform(18, 60)
    for x in np.arange(-2 * stage.width, 3 * stage.width, gap * 1.8).tolist():
        near = (x, stage.height)
        far = (vanish + (x - vanish) * 0.45, stage.edge)
        pen.line((*near, *far), fill=ink(colour, 0.5), width=2)


def _litter(pen: Pen, stage: Stage, rng: np.random.Generator) -> None:
    """Crumbs of soil and old leaves that lie on every bench."""
    for _ in range(int(rng.integers(0, 14))):
        x, y = rng.uniform(0, stage.width), rng.uniform(stage.edge + 3, stage.height)
        size = rng.uniform(0.8, 4.5)
        tone = np.array([(70, 50, 36), (150, 110, 50), (60, 90, 40)][int(rng.integers(3))])
        pen.ellipse(
            (x - size * 1.5, y - size * 0.6, x + size * 1.5, y + size * 0.6), fill=ink(tone)
        )


@cache
def _texture(kind: str) -> Pixels:
    """Brightness ``(512, 512)`` around 1 of a surface; always the same for a kind."""
    rng = np.random.default_rng(sorted(SURFACES).index(kind))
    fine = {"wood": (6, 170), "gravel": (190, 250), "soil": (200, 260), "metal": (3, 300)}
    across, down = fine.get(kind, (256, 256))
    rough = {"gravel": 0.2, "soil": 0.26, "wood": 0.1}.get(kind, 0.07)
    grain, lumps = clouds(across, down, rng), clouds(12, 12, rng)
    return np.asarray(1 + np.float32(rough) * grain + np.float32(0.08) * lumps)


def clouds(across: int, down: int, rng: np.random.Generator) -> Pixels:
    """Smooth noise ``(512, 512)`` of mean 0 and spread 1 with this many lumps each way."""
    lumps = Image.fromarray(rng.normal(0, 1, (down, across)).astype(np.float32))
    smooth = np.asarray(lumps.resize((512, 512), Image.Resampling.BICUBIC))
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


@dataclass(frozen=True)
class Pot:
    """A pot in pixels: middle and half width of its rim, its height, how round the rim is."""

    x: float
    y: float
    half: float
    tall: float
    round: float


def shadow(pen: Pen, pot: Pot, dark: int) -> None:
    """The soft dark the pot throws on the bench."""
    foot = pot.y + pot.tall
    for step in range(5):
        wide = pot.half * (1.6 - 0.16 * step)
        high = wide * max(pot.round, 0.12) * 0.9
        box = (pot.x - wide * 0.8, foot - high, pot.x + wide * 1.15, foot + high * 0.9)
        pen.ellipse(box, fill=(10, 10, 12, dark))


def draw_pot(pen: Pen, pot: Pot, rng: np.random.Generator) -> None:
    """A pot with soil in it, lit from the left."""
    colour, narrow = pick(rng, POTS), rng.uniform(0.62, 0.92)
    strips = np.linspace(-1, 1, 13)
    for left, right in zip(strips[:-1].tolist(), strips[1:].tolist(), strict=True):
        fill = ink(colour, 1.1 - 0.5 * abs((left + right) / 2 + 0.3))
        pen.polygon(_stave(pot, left, right, narrow), fill=fill)
    rim = pot.half * 1.06
    deep = rim * pot.round
    lip = pot.tall * rng.uniform(0.1, 0.22)
    for drop, light in ((lip, 0.85), (0.0, 1.1)):
        box = (pot.x - rim, pot.y - deep + drop, pot.x + rim, pot.y + deep + drop)
        pen.ellipse(box, fill=ink(colour, light))
    soil(pen, pot, rng)


def _stave(pot: Pot, left: float, right: float, narrow: float) -> list[tuple[float, float]]:
    """One strip of the pot's wall."""

    def place(across: float, low: bool) -> tuple[float, float]:
        sink = pot.half * pot.round * (1 - across * across) ** 0.5
        width = pot.half * (narrow if low else 1.0)
        return pot.x + across * width, pot.y + sink * (narrow if low else 1.0) + pot.tall * low

    return [place(left, False), place(right, False), place(right, True), place(left, True)]


def soil(pen: Pen, pot: Pot, rng: np.random.Generator) -> None:
    """The soil in a pot, with crumbs."""
    wide, deep = pot.half * 0.95, pot.half * 0.95 * pot.round
    earth = pick(rng, SURFACES["soil"])
    pen.ellipse((pot.x - wide, pot.y - deep, pot.x + wide, pot.y + deep), fill=ink(earth, 0.8))
    turn, out = rng.uniform(0, 6.28, 26), np.sqrt(rng.random(26)) * 0.92
    size = np.maximum(rng.uniform(0.02, 0.07, 26) * pot.half, 1)
    light = rng.uniform(0.5, 1.6, 26)
    spots = np.stack([pot.x + wide * out * np.cos(turn), pot.y + deep * out * np.sin(turn)], 1)
    for (x, y), r, tone in zip(spots.tolist(), size.tolist(), light.tolist(), strict=True):
        pen.ellipse((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=ink(earth, tone))
