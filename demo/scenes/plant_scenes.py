"""Draw photo-like scenes of greenhouse plants, healthy or wilting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes import greenhouse, plant_drawing, plants, props
from demo.scenes.camera import simulate_camera
from demo.scenes.drawing import Sunlight, normalize_vectors
from demo.scenes.greenhouse import Pot, SceneFrame
from demo.scenes.leaf_geometry import CameraView
from demo.scenes.species import SPECIES, Species

IMAGE_SIZES = ((320, 240), (320, 240), (320, 214), (304, 228), (336, 252), (240, 304), (288, 272))
LABEL_BLOCK = ("healthy",) * 11 + ("wilting",) * 9
"""Labels of each 20 scenes, before they are shuffled."""

HAZE_COLOURS = ((150, 156, 156), (176, 184, 182), (206, 210, 206), (190, 186, 172), (122, 130, 124))
"""RGB of the haze between the camera and the background."""

SUPERSAMPLING = 2
"""Factor by which the main plant is drawn larger, to smooth its edges."""


@dataclass(frozen=True)
class PlantScene:
    """A drawn photo: file name stem, true label, and RGB image of about 320 by 240 pixels."""

    name: str
    label: str
    image: Image.Image


def plant_scenes(count: int, seed: int) -> Iterator[PlantScene]:
    """Draw the first scenes of a seed: of every 20, 11 are healthy and 9 wilting."""
    for index in range(count):
        label = _sample_label(index, seed)
        rng = np.random.default_rng([seed, index, 1])
        yield PlantScene(f"greenhouse-{index:04d}", label, _draw_scene(label, rng))


def _sample_label(index: int, seed: int) -> str:
    block, position = divmod(index, len(LABEL_BLOCK))
    return str(np.random.default_rng([seed, block, 0]).permutation(LABEL_BLOCK)[position])


def _draw_scene(label: str, rng: np.random.Generator) -> Image.Image:
    """Draw one photo: blurred surroundings, the plant in focus, and blurred foreground."""
    frame, sun = _sample_frame(rng), _sample_sunlight(rng)
    image = _draw_background(frame, sun, rng)
    image = image.resize(
        (frame.width * SUPERSAMPLING, frame.height * SUPERSAMPLING), Image.Resampling.NEAREST
    )
    _draw_main_plant(image, frame, sun, label, rng)
    image = image.reduce(SUPERSAMPLING)
    if rng.random() < 0.2:
        image = props.add_foreground_blur(image, rng)
    return simulate_camera(image, rng)


def _sample_frame(rng: np.random.Generator) -> SceneFrame:
    width, height = IMAGE_SIZES[int(rng.integers(len(IMAGE_SIZES)))]
    return SceneFrame(width, height, height * rng.uniform(0.4, 0.74), rng.uniform(0.2, 0.75))


def _sample_sunlight(rng: np.random.Generator) -> Sunlight:
    direction = np.array([rng.normal(0, 0.8), rng.uniform(-0.3, 0.9), rng.uniform(0.4, 1.2)])
    return Sunlight(normalize_vectors(direction), rng.uniform(0.3, 0.65))


def _draw_background(frame: SceneFrame, sun: Sunlight, rng: np.random.Generator) -> Image.Image:
    """Draw the greenhouse, the bench and other plants, blurred by distance."""
    background = Image.new("RGB", (frame.width, frame.height))
    background.paste(
        greenhouse.draw_backdrop(frame, rng).filter(ImageFilter.BoxBlur(rng.uniform(3, 8)))
    )
    greenhouse.draw_bench(background, frame, rng)
    haze = HAZE_COLOURS[int(rng.integers(len(HAZE_COLOURS)))]
    background = Image.blend(
        background, Image.new("RGB", background.size, haze), rng.uniform(0.4, 0.68)
    )
    for depth in sorted(rng.uniform(0.0, 0.75, int(rng.integers(0, 4))).tolist()):
        _draw_neighbour(background, frame, sun, depth, rng)
    blurred = background.filter(ImageFilter.BoxBlur(rng.uniform(1.2, 3.0)))
    return Image.composite(background, blurred, _focus_mask(frame))


def _focus_mask(frame: SceneFrame) -> Image.Image:
    """Return the sharpness of each row, 0 to 255; it increases towards the camera."""
    rows = np.clip(
        (np.arange(frame.height) - frame.bench_row) / (frame.height - frame.bench_row), 0, 1
    )
    sharpness = (rows * 255).astype(np.uint8)[:, None]
    return Image.fromarray(np.broadcast_to(sharpness, (frame.height, frame.width)).copy())


def _draw_neighbour(
    image: Image.Image, frame: SceneFrame, sun: Sunlight, depth: float, rng: np.random.Generator
) -> None:
    """Draw another plant in the background, with an independent condition."""
    pot_row = frame.bench_row + depth * (frame.height - frame.bench_row) * 0.6
    plant_height = frame.height * (0.2 + 0.25 * depth) * rng.uniform(0.7, 1.2)
    pot = _sample_pot(rng.uniform(0, frame.width), pot_row, plant_height, frame, rng)
    condition = plants.sample_wilting(rng) if rng.random() < 0.2 else plants.sample_healthy(rng)
    plant = plants.grow_plant(_sample_species(rng), condition, rng)
    view = CameraView(pot.x, pot.y, plant_height, frame.camera_pitch)
    _draw_potted_plant(image, plant, pot, view, sun, 3, rng)


def _sample_species(rng: np.random.Generator) -> Species:
    return SPECIES[int(rng.integers(len(SPECIES)))]


def _sample_pot(
    x: float, y: float, plant_height: float, frame: SceneFrame, rng: np.random.Generator
) -> Pot:
    rim_half_width, is_low_pot = plant_height * rng.uniform(0.16, 0.3), rng.random() < 0.15
    rim_half_width, height_ratio = (
        (rim_half_width * 1.5, 0.35) if is_low_pot else (rim_half_width, rng.uniform(0.9, 1.7))
    )
    return Pot(
        x, y, rim_half_width, rim_half_width * height_ratio, float(np.sin(frame.camera_pitch)) * 0.9
    )


def _draw_potted_plant(
    image: Image.Image,
    plant: plants.Plant,
    pot: Pot,
    view: CameraView,
    sun: Sunlight,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Draw a plant in its pot, perhaps with a cane."""
    pen = ImageDraw.Draw(image, "RGBA")
    greenhouse.draw_pot_shadow(pen, pot, int(rng.integers(14, 40)))
    greenhouse.draw_pot(pen, pot, rng)
    if rng.random() < plant.species.cane_probability:
        props.draw_cane(pen, (pot.x, pot.y), view.scale, rng)
    plant_drawing.draw_plant(plant, pen, view, sun, steps, rng)


def _draw_main_plant(
    image: Image.Image, frame: SceneFrame, sun: Sunlight, label: str, rng: np.random.Generator
) -> None:
    """Draw the main plant, and props beside it and in front of it."""
    image_width, image_height = image.size
    x, y = image_width * rng.uniform(0.42, 0.58), image_height * rng.uniform(0.8, 0.93)
    condition = plants.sample_healthy(rng) if label == "healthy" else plants.sample_wilting(rng)
    plant = plants.grow_plant(_sample_species(rng), condition, rng)
    plant_height = image_height * rng.uniform(0.64, 0.9) * _zoom_factor(plant)
    pot = _sample_pot(x, y, plant_height, frame, rng)
    if rng.random() < 0.3:
        _draw_prop(image, x, y, rng)
    view = CameraView(x, y, plant_height, frame.camera_pitch)
    _draw_potted_plant(image, plant, pot, view, sun, _leaf_steps(plant), rng)
    if rng.random() < 0.3:
        _draw_label_card(image, pot, rng)
    if rng.random() < 0.25:
        _draw_prop(image, x, image_height * rng.uniform(0.95, 1.1), rng)


def _zoom_factor(plant: plants.Plant) -> float:
    """Return the zoom factor of the camera, which is larger for low and limp plants."""
    return (1.2 if plant.species.is_rosette else 1.0) * (1 + 0.2 * plant.condition.droop)


def _leaf_steps(plant: plants.Plant) -> int:
    """Return the number of pieces along a leaf, which is larger for few broad leaves."""
    if plant.species.lobes:
        return 11
    return 9 if len(plant.leaves.length) < 70 else 6


def _draw_label_card(image: Image.Image, pot: Pot, rng: np.random.Generator) -> None:
    """Draw a plant label at the rim of the pot."""
    side = float(rng.choice([-1.0, 1.0])) * rng.uniform(0.5, 0.95)
    position = (
        pot.x + side * pot.rim_half_width,
        pot.y + pot.rim_half_width * pot.rim_aspect_ratio * 0.4,
    )
    props.draw_plant_label(
        ImageDraw.Draw(image), position, image.height * rng.uniform(0.06, 0.11), rng
    )


def _draw_prop(image: Image.Image, x: float, y: float, rng: np.random.Generator) -> None:
    """Draw a tool beside the plant, partly in front of it."""
    draw_prop = props.STANDING_PROPS[int(rng.integers(len(props.STANDING_PROPS)))]
    x_offset = float(rng.choice([-1.0, 1.0])) * image.width * rng.uniform(0.12, 0.4)
    size = image.height * rng.uniform(0.12, 0.26)
    draw_prop(ImageDraw.Draw(image), (x + x_offset, y), size, rng)
