"""Draw the surroundings of a plant: the greenhouse, the bench and the pot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from backend.arrays import Doubles, Floats
from demo.scenes.drawing import Pen, draw_ellipse, sample_colour, to_rgb

SKY_COLOURS = ((226, 234, 238), (198, 214, 226), (236, 226, 202), (170, 186, 178), (120, 134, 140))
FRAME_COLOURS = ((238, 240, 238), (120, 126, 124), (70, 82, 74), (150, 118, 84))
WALL_COLOURS = ((206, 202, 190), (150, 116, 100), (120, 116, 110), (96, 104, 98), (176, 168, 150))
FOLIAGE_COLOURS = (
    (40, 78, 36),
    (74, 118, 50),
    (110, 146, 66),
    (58, 92, 70),
    (140, 150, 70),
    (96, 70, 60),
)
PROP_COLOURS = (
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
SURFACE_COLOURS = {
    "wood": ((150, 128, 104), (112, 94, 76), (188, 168, 142)),
    "gravel": ((150, 146, 138), (122, 112, 100), (176, 170, 156)),
    "soil": ((74, 54, 40), (58, 44, 34), (98, 74, 54)),
    "metal": ((150, 156, 158), (110, 116, 116), (182, 186, 184)),
    "matting": ((60, 62, 64), (84, 96, 88), (120, 124, 120)),
}
POT_COLOURS = (
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
class SceneFrame:
    """Image size in pixels, row of the far edge of the bench, and camera pitch in radians."""

    width: int
    height: int
    bench_row: float
    camera_pitch: float


def draw_backdrop(frame: SceneFrame, rng: np.random.Generator) -> Image.Image:
    """Draw the greenhouse above the bench: glass or a wall, distant plants, tools."""
    top = _sample_background_colour(rng)
    bottom = _sample_background_colour(rng) * rng.uniform(0.45, 0.9)
    backdrop_height = int(frame.bench_row) + 8
    gradient = np.linspace(0, 1, backdrop_height)[:, None, None] ** rng.uniform(0.6, 1.6)
    rows = (top + (bottom - top) * gradient).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(rows, (backdrop_height, frame.width, 3)).copy())
    pen = ImageDraw.Draw(image, "RGBA")
    _draw_window_frames(pen, frame, rng)
    for _ in range(int(rng.integers(0, 4))):
        _draw_far_plants(pen, frame, rng)
    for _ in range(int(rng.integers(0, 4))):
        _draw_background_prop(pen, frame, rng)
    return image


def _sample_background_colour(rng: np.random.Generator) -> Doubles:
    return sample_colour(rng, SKY_COLOURS if rng.random() < 0.6 else WALL_COLOURS)


def _draw_window_frames(pen: Pen, frame: SceneFrame, rng: np.random.Generator) -> None:
    """Draw the frames of the windows."""
    fill, line_width = to_rgb(sample_colour(rng, FRAME_COLOURS)), int(rng.integers(2, 7))
    slant, spacing = rng.normal(0, 25), rng.uniform(35, 120)
    for x in np.arange(rng.uniform(-60, 0), frame.width + 60, spacing).tolist():
        pen.line((x, 0, x + slant, frame.bench_row), fill=fill, width=line_width)
    for _ in range(int(rng.integers(0, 3))):
        y = rng.uniform(0, frame.bench_row)
        pen.line((0, y, frame.width, y + rng.normal(0, 20)), fill=fill, width=line_width)


def _draw_far_plants(pen: Pen, frame: SceneFrame, rng: np.random.Generator) -> None:
    """Draw a row of plants on a distant bench."""
    y, green = frame.bench_row * rng.uniform(0.55, 1.05), sample_colour(rng, FOLIAGE_COLOURS)
    size = frame.height * rng.uniform(0.03, 0.11)
    board_colour = to_rgb(sample_colour(rng, FRAME_COLOURS))
    pen.rectangle((0, y + size * 0.6, frame.width, y + size * 0.9), fill=board_colour)
    row_ends = np.sort(rng.uniform(-0.1, 1.1, 2)) * frame.width
    for x in np.arange(row_ends[0], row_ends[1], size * 0.55).tolist():
        for _ in range(2):
            clump_x, clump_y = rng.normal(x, size * 0.4), rng.normal(y, size * 0.35)
            half_width, half_height = size * rng.uniform(0.2, 0.75, 2)
            fill = to_rgb(green, rng.uniform(0.6, 1.25))
            draw_ellipse(pen, clump_x, clump_y, half_width, half_height, fill)


def _draw_background_prop(pen: Pen, frame: SceneFrame, rng: np.random.Generator) -> None:
    """Draw a distant lamp, bag or barrel as a plain shape."""
    half_width, half_height = frame.height * rng.uniform(0.03, 0.16, 2)
    x, y = rng.uniform(0, frame.width), frame.bench_row * rng.uniform(0.1, 1.1)
    fill = to_rgb(sample_colour(rng, PROP_COLOURS if rng.random() < 0.7 else FOLIAGE_COLOURS))
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    shape = int(rng.integers(4))
    if shape == 0:
        pen.ellipse(box, fill=fill)
    elif shape == 1:
        pen.line((x, 0, x, y), fill=(40, 40, 40), width=2)
        pen.polygon([(x - half_width, y), (x + half_width, y), (x, y - half_height)], fill=fill)
    else:
        pen.rectangle(box, fill=fill)
        pen.rectangle(
            (x - half_width, y - half_height, x + half_width, y - half_height * 0.5),
            fill=to_rgb(sample_colour(rng, PROP_COLOURS)),
        )


def draw_bench(image: Image.Image, frame: SceneFrame, rng: np.random.Generator) -> None:
    """Draw the bench, bed or floor over the lower part of an image."""
    kind = list(SURFACE_COLOURS)[int(rng.integers(len(SURFACE_COLOURS)))]
    colour = sample_colour(rng, SURFACE_COLOURS[kind])
    top = int(np.clip(frame.bench_row, 0, frame.height - 4))
    depth = frame.height - top
    grain = _surface_texture(kind)
    row, column = (int(rng.integers(0, size)) for size in (512 - depth, 512 - frame.width))
    patch = grain[row : row + depth, column : column + frame.width]
    row_brightness = np.linspace(rng.uniform(0.6, 1.05), rng.uniform(0.8, 1.15), depth)[:, None]
    shaded_pixels = np.clip((patch * row_brightness)[..., None] * colour, 0, 255).astype(np.uint8)
    image.paste(Image.fromarray(shaded_pixels), (0, top))
    pen = ImageDraw.Draw(image, "RGBA")
    if kind == "wood":
        _draw_board_gaps(pen, frame, colour, rng)
    if rng.random() < 0.5:
        edge_colour = to_rgb(colour, rng.uniform(0.4, 1.3))
        pen.rectangle((0, top - 2, frame.width, top + rng.uniform(0, 4)), fill=edge_colour)
    _draw_litter(pen, frame, rng)


def _draw_board_gaps(
    pen: Pen, frame: SceneFrame, colour: Doubles, rng: np.random.Generator
) -> None:
    """Draw the gaps between boards in perspective."""
    vanishing_x, board_width = frame.width * rng.uniform(-0.2, 1.2), rng.uniform(18, 60)
    for x in np.arange(-2 * frame.width, 3 * frame.width, board_width * 1.8).tolist():
        near = (x, frame.height)
        far = (vanishing_x + (x - vanishing_x) * 0.45, frame.bench_row)
        pen.line((*near, *far), fill=to_rgb(colour, 0.5), width=2)


def _draw_litter(pen: Pen, frame: SceneFrame, rng: np.random.Generator) -> None:
    """Draw crumbs of soil and old leaves."""
    for _ in range(int(rng.integers(0, 14))):
        x, y = rng.uniform(0, frame.width), rng.uniform(frame.bench_row + 3, frame.height)
        size = rng.uniform(0.8, 4.5)
        crumb_colour = np.array([(70, 50, 36), (150, 110, 50), (60, 90, 40)][int(rng.integers(3))])
        draw_ellipse(pen, x, y, size * 1.5, size * 0.6, to_rgb(crumb_colour))


@cache
def _surface_texture(kind: str) -> Floats:
    """Return the brightness ``(512, 512)`` around 1 of a kind of surface."""
    rng = np.random.default_rng(sorted(SURFACE_COLOURS).index(kind))
    lumps_by_kind = {"wood": (6, 170), "gravel": (190, 250), "soil": (200, 260), "metal": (3, 300)}
    across, down = lumps_by_kind.get(kind, (256, 256))
    contrast = {"gravel": 0.2, "soil": 0.26, "wood": 0.1}.get(kind, 0.07)
    grain, lumps = smooth_noise(across, down, rng), smooth_noise(12, 12, rng)
    return np.asarray(1 + np.float32(contrast) * grain + np.float32(0.08) * lumps)


def smooth_noise(across: int, down: int, rng: np.random.Generator) -> Floats:
    """Sample smooth noise ``(512, 512)`` of mean 0 and deviation 1 with lumps in each direction."""
    lumps = Image.fromarray(rng.normal(0, 1, (down, across)).astype(np.float32))
    smooth = np.asarray(lumps.resize((512, 512), Image.Resampling.BICUBIC))
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


@dataclass(frozen=True)
class Pot:
    """A pot in pixels: center and half width of the rim, height, and aspect ratio of the rim."""

    x: float
    y: float
    rim_half_width: float
    pot_height: float
    rim_aspect_ratio: float


def draw_pot_shadow(pen: Pen, pot: Pot, opacity: int) -> None:
    """Draw the soft shadow of a pot on the bench."""
    pot_bottom = pot.y + pot.pot_height
    for step in range(5):
        half_width = pot.rim_half_width * (1.6 - 0.16 * step)
        half_height = half_width * max(pot.rim_aspect_ratio, 0.12) * 0.9
        left, right = pot.x - half_width * 0.8, pot.x + half_width * 1.15
        box = (left, pot_bottom - half_height, right, pot_bottom + half_height * 0.9)
        pen.ellipse(box, fill=(10, 10, 12, opacity))


def draw_pot(pen: Pen, pot: Pot, rng: np.random.Generator) -> None:
    """Draw a pot with soil, lit from the left."""
    colour, bottom_ratio = sample_colour(rng, POT_COLOURS), rng.uniform(0.62, 0.92)
    strips = np.linspace(-1, 1, 13)
    for left, right in zip(strips[:-1].tolist(), strips[1:].tolist(), strict=True):
        fill = to_rgb(colour, 1.1 - 0.5 * abs((left + right) / 2 + 0.3))
        pen.polygon(_wall_strip(pot, left, right, bottom_ratio), fill=fill)
    rim_radius = pot.rim_half_width * 1.06
    rim_half_height = rim_radius * pot.rim_aspect_ratio
    lip_height = pot.pot_height * rng.uniform(0.1, 0.22)
    for y_offset, brightness in ((lip_height, 0.85), (0.0, 1.1)):
        y = pot.y + y_offset
        draw_ellipse(pen, pot.x, y, rim_radius, rim_half_height, to_rgb(colour, brightness))
    draw_soil(pen, pot, rng)


def _wall_strip(
    pot: Pot, left: float, right: float, bottom_ratio: float
) -> list[tuple[float, float]]:
    """Return the corners of one strip of the wall."""

    def place(across: float, is_bottom: bool) -> tuple[float, float]:
        curve_offset = pot.rim_half_width * pot.rim_aspect_ratio * (1 - across * across) ** 0.5
        width = pot.rim_half_width * (bottom_ratio if is_bottom else 1.0)
        curve_share = bottom_ratio if is_bottom else 1.0
        return pot.x + across * width, pot.y + curve_offset * curve_share + (
            pot.pot_height * is_bottom
        )

    return [place(left, False), place(right, False), place(right, True), place(left, True)]


def draw_soil(pen: Pen, pot: Pot, rng: np.random.Generator) -> None:
    """Draw the soil in a pot."""
    half_width = pot.rim_half_width * 0.95
    half_height = half_width * pot.rim_aspect_ratio
    soil_colour = sample_colour(rng, SURFACE_COLOURS["soil"])
    draw_ellipse(pen, pot.x, pot.y, half_width, half_height, to_rgb(soil_colour, 0.8))
    angles, radii = rng.uniform(0, 6.28, 26), np.sqrt(rng.random(26)) * 0.92
    size = np.maximum(rng.uniform(0.02, 0.07, 26) * pot.rim_half_width, 1)
    light = rng.uniform(0.5, 1.6, 26)
    spots = np.stack(
        [pot.x + half_width * radii * np.cos(angles), pot.y + half_height * radii * np.sin(angles)],
        1,
    )
    for (x, y), r, brightness in zip(spots.tolist(), size.tolist(), light.tolist(), strict=True):
        draw_ellipse(pen, x, y, r, r * 0.7, to_rgb(soil_colour, brightness))
