"""Photo-like scenes of greenhouse plants, healthy or wilting, drawn with known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes import greenhouse, plant_drawing, plants, props
from demo.scenes.camera import photograph
from demo.scenes.greenhouse import Pot, Stage
from demo.scenes.leaf_geometry import Sun, View, unit
from demo.scenes.species import SPECIES, Species

SIZES = ((320, 240), (320, 240), (320, 214), (304, 228), (336, 252), (240, 304), (288, 272))
BLOCK = ("healthy",) * 11 + ("wilting",) * 9
"""The labels of every 20 scenes, before they are shuffled."""

HAZES = ((150, 156, 156), (176, 184, 182), (206, 210, 206), (190, 186, 172), (122, 130, 124))
"""RGB of the bright damp air between the camera and the background."""

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
    picture = picture.resize((stage.width * FINE, stage.height * FINE), Image.Resampling.NEAREST)
    _main_plant(picture, stage, sun, label, rng)
    picture = picture.reduce(FINE)
    if rng.random() < 0.2:
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
    far = Image.new("RGB", (stage.width, stage.height))
    far.paste(greenhouse.backdrop(stage, rng).filter(ImageFilter.BoxBlur(rng.uniform(3, 8))))
    greenhouse.bench(far, stage, rng)
    haze = HAZES[int(rng.integers(len(HAZES)))]
    far = Image.blend(far, Image.new("RGB", far.size, haze), rng.uniform(0.4, 0.68))
    for depth in sorted(rng.uniform(0.0, 0.75, int(rng.integers(0, 4))).tolist()):
        _neighbour(far, stage, sun, depth, rng)
    soft = far.filter(ImageFilter.BoxBlur(rng.uniform(1.2, 3.0)))
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
    condition = plants.wilting(rng) if rng.random() < 0.2 else plants.healthy(rng)
    plant, view = plants.grow(_species(rng), condition, rng), View(pot.x, pot.y, tall, stage.pitch)
    _plant(picture, plant, pot, view, sun, 3, rng)


def _species(rng: np.random.Generator) -> Species:
    return SPECIES[int(rng.integers(len(SPECIES)))]


def _pot(x: float, y: float, tall: float, stage: Stage, rng: np.random.Generator) -> Pot:
    half, low = tall * rng.uniform(0.16, 0.3), rng.random() < 0.15
    half, deep = (half * 1.5, 0.35) if low else (half, rng.uniform(0.9, 1.7))
    return Pot(x, y, half, half * deep, float(np.sin(stage.pitch)) * 0.9)


def _plant(
    picture: Image.Image,
    plant: plants.Plant,
    pot: Pot,
    view: View,
    sun: Sun,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """A plant in its pot, with the cane it may be tied to."""
    pen = ImageDraw.Draw(picture, "RGBA")
    greenhouse.shadow(pen, pot, int(rng.integers(14, 40)))
    greenhouse.draw_pot(pen, pot, rng)
    if rng.random() < plant.species.cane:
        props.cane(pen, (pot.x, pot.y), view.scale, rng)
    plant_drawing.draw(plant, pen, view, sun, steps, rng)


def _main_plant(
    picture: Image.Image, stage: Stage, sun: Sun, label: str, rng: np.random.Generator
) -> None:
    """The plant the photo is about, and what stands beside and in front of it."""
    wide, high = picture.size
    x, y = wide * rng.uniform(0.42, 0.58), high * rng.uniform(0.8, 0.93)
    condition = plants.healthy(rng) if label == "healthy" else plants.wilting(rng)
    plant = plants.grow(_species(rng), condition, rng)
    tall = high * rng.uniform(0.64, 0.9) * _closer(plant)
    pot = _pot(x, y, tall, stage, rng)
    if rng.random() < 0.3:
        _prop(picture, x, y, rng)
    _plant(picture, plant, pot, View(x, y, tall, stage.pitch), sun, _steps(plant), rng)
    if rng.random() < 0.3:
        _card(picture, pot, rng)
    if rng.random() < 0.25:
        _prop(picture, x, high * rng.uniform(0.95, 1.1), rng)


def _closer(plant: plants.Plant) -> float:
    """How much nearer one goes to photograph a plant that is low or has slumped."""
    return (1.2 if plant.species.is_rosette else 1.0) * (1 + 0.2 * plant.condition.limp)


def _steps(plant: plants.Plant) -> int:
    """Pieces along a leaf: many where leaves are few and broad."""
    if plant.species.lobes:
        return 11
    return 9 if len(plant.leaves.length) < 70 else 6


def _card(picture: Image.Image, pot: Pot, rng: np.random.Generator) -> None:
    """A label at the pot's rim."""
    side = float(rng.choice([-1.0, 1.0])) * rng.uniform(0.5, 0.95)
    at = (pot.x + side * pot.half, pot.y + pot.half * pot.round * 0.4)
    props.label(ImageDraw.Draw(picture), at, picture.height * rng.uniform(0.06, 0.11), rng)


def _prop(picture: Image.Image, x: float, y: float, rng: np.random.Generator) -> None:
    """A thing beside the plant, partly before it."""
    thing = props.STANDING[int(rng.integers(len(props.STANDING)))]
    aside = float(rng.choice([-1.0, 1.0])) * picture.width * rng.uniform(0.12, 0.4)
    size = picture.height * rng.uniform(0.12, 0.26)
    thing(ImageDraw.Draw(picture), (x + aside, y), size, rng)
