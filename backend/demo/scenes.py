"""Photo-like scenes of greenhouse plants, healthy or wilting, drawn with known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from backend.demo import plants, props, surroundings
from backend.demo.leaves import Floats, Sun, View, unit
from backend.demo.photograph import photograph
from backend.demo.species import SPECIES
from backend.demo.surroundings import Pot, Stage

SIZES = ((320, 240), (320, 240), (320, 214), (304, 228), (336, 252), (240, 304), (288, 272))
BLOCK = ("healthy",) * 11 + ("wilting",) * 9
HAZE = (150, 156, 156)
FINE = 2
"""The main plant is drawn this many times larger, then shrunk to smooth its edges."""


@dataclass(frozen=True)
class PlantScene:
    """One drawn photo.

    Attributes:
        name: File name stem, which does not give the label away.
        label: The truth, ``healthy`` or ``wilting``.
        image: RGB, about 320 by 240 pixels.
    """

    name: str
    label: str
    image: Image.Image


def plant_scenes(count: int, seed: int) -> Iterator[PlantScene]:
    """Draw scenes one by one; the same seed draws the same scenes, however many are asked for.

    Args:
        count: How many.
        seed: Which series.

    Yields:
        Scenes, 11 healthy and 9 wilting in every 20, in random order.
    """
    for index in range(count):
        label = _label(index, seed)
        rng = np.random.default_rng([seed, index, 1])
        yield PlantScene(f"greenhouse-{index:04d}", label, _scene(label, rng))


def _label(index: int, seed: int) -> str:
    block, place = divmod(index, len(BLOCK))
    return str(np.random.default_rng([seed, block, 0]).permutation(BLOCK)[place])


def _scene(label: str, rng: np.random.Generator) -> Image.Image:
    """One photo: the surroundings out of focus, the plant in focus, things in front, the camera."""
    stage, sun = _stage(rng), _sun(rng)
    picture = _behind(stage, sun, rng)
    picture = picture.resize((stage.width * FINE, stage.height * FINE), Image.Resampling.BILINEAR)
    _main_plant(picture, stage, sun, label, rng)
    picture = picture.reduce(FINE)
    if rng.random() < 0.25:
        picture = props.foreground(picture, rng)
    return photograph(picture, rng)


def _stage(rng: np.random.Generator) -> Stage:
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    return Stage(width, height, height * rng.uniform(0.4, 0.74), rng.uniform(0.2, 0.75))


def _sun(rng: np.random.Generator) -> Sun:
    direction = np.array([rng.normal(0, 0.8), rng.uniform(-0.3, 0.9), rng.uniform(0.4, 1.2)])
    return Sun(unit(direction), rng.uniform(0.3, 0.65))


def _behind(stage: Stage, sun: Sun, rng: np.random.Generator) -> Image.Image:
    """The greenhouse, the bench and the neighbours, the farther the softer."""
    far = surroundings.backdrop(stage, rng).filter(ImageFilter.BoxBlur(rng.uniform(2, 7)))
    surroundings.bench(far, stage, rng)
    far = Image.blend(far, Image.new("RGB", far.size, HAZE), rng.uniform(0.3, 0.6))
    for depth in sorted(rng.uniform(0.0, 0.75, int(rng.integers(0, 5))).tolist()):
        _neighbour(far, stage, sun, depth, rng)
    soft = far.filter(ImageFilter.BoxBlur(rng.uniform(1.0, 3.0)))
    return Image.composite(far, soft, _focus(stage))


def _focus(stage: Stage) -> Image.Image:
    """How sharp each row is, 0 to 255: the bench comes into focus towards the plant."""
    rows = np.clip((np.arange(stage.height) - stage.edge) / (stage.height - stage.edge), 0, 1)
    sharp = (rows * 255).astype(np.uint8)[:, None]
    return Image.fromarray(np.broadcast_to(sharp, (stage.height, stage.width)).copy())


def _neighbour(
    picture: Image.Image, stage: Stage, sun: Sun, depth: float, rng: np.random.Generator
) -> None:
    """Another plant on the bench, behind; how it does says nothing about the main one."""
    foot = stage.edge + depth * (stage.height - stage.edge) * 0.6
    tall = stage.height * (0.2 + 0.25 * depth) * rng.uniform(0.7, 1.2)
    pot = _pot(rng.uniform(0, stage.width), foot, tall, stage, rng)
    ill = rng.random() < 0.2
    _plant(picture, pot, tall, stage, sun, plants.wilting if ill else plants.healthy, 4, rng)


def _pot(x: float, y: float, tall: float, stage: Stage, rng: np.random.Generator) -> Pot:
    half = tall * rng.uniform(0.16, 0.32)
    return Pot(x, y, half, half * rng.uniform(0.9, 1.7), float(np.sin(stage.pitch)) * 0.9)


def _plant(
    picture: Image.Image,
    pot: Pot,
    tall: float,
    stage: Stage,
    sun: Sun,
    condition: plants.Doing,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """A plant in its pot, or in the ground, with the cane it may be tied to."""
    species = SPECIES[int(rng.integers(len(SPECIES)))]
    pen = ImageDraw.Draw(picture, "RGBA")
    surroundings.shadow(picture, pot, int(rng.integers(14, 40)))
    if rng.random() < 0.8:
        surroundings.draw_pot(pen, pot, rng)
    else:
        surroundings.soil(pen, pot, rng)
    if rng.random() < species.cane:
        props.cane(pen, (pot.x, pot.y), tall, rng)
    view = View(pot.x, pot.y, tall, stage.pitch)
    plants.draw(plants.grow(species, condition(rng), rng), pen, view, sun, steps, rng)


def _main_plant(
    picture: Image.Image, stage: Stage, sun: Sun, label: str, rng: np.random.Generator
) -> None:
    """The plant the photo is about, and what stands beside and in front of it."""
    wide, high = picture.size
    tall = high * rng.uniform(0.76, 0.94)
    x, y = wide * rng.uniform(0.44, 0.56), high * rng.uniform(0.86, 0.96)
    if rng.random() < 0.4:
        _prop(picture, x, y, rng)
    pot = _pot(x, y, tall, stage, rng)
    condition = plants.healthy if label == "healthy" else plants.wilting
    _plant(picture, pot, tall, stage, sun, condition, 9, rng)
    if rng.random() < 0.3:
        card = (x + pot.half * rng.uniform(-0.8, 0.8), y + pot.half * pot.round * 0.6)
        props.label(ImageDraw.Draw(picture), card, high * rng.uniform(0.08, 0.16), rng)
    if rng.random() < 0.3:
        _prop(picture, x, high * rng.uniform(0.95, 1.1), rng)


def _prop(picture: Image.Image, x: float, y: float, rng: np.random.Generator) -> None:
    """A thing beside the plant, partly before it."""
    thing = props.STANDING[int(rng.integers(len(props.STANDING)))]
    aside = float(rng.choice([-1.0, 1.0])) * picture.width * rng.uniform(0.12, 0.4)
    size = picture.height * rng.uniform(0.12, 0.26)
    thing(ImageDraw.Draw(picture), (x + aside, y), size, rng)
