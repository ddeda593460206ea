"""The drawn photos: the same for a seed, both labels, and learnable, but not from a few labels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from backend.vision.encoders.builtin import extract_features
from demo.scenes import plants
from demo.scenes.leaf_geometry import trace_midribs
from demo.scenes.plant_scenes import PlantScene, plant_scenes
from demo.scenes.species import SPECIES, Species

COUNT, HELD_OUT = 220, 80
SEEDS = 12


@pytest.fixture(scope="module")
def scenes() -> list[PlantScene]:
    return list(plant_scenes(COUNT, seed=5))


def test_the_same_seed_draws_the_same_however_many_are_asked_for(scenes: list[PlantScene]) -> None:
    for again, first in zip(plant_scenes(6, seed=5), scenes, strict=False):
        assert (again.name, again.label) == (first.name, first.label)
        assert again.image.tobytes() == first.image.tobytes()


def test_another_seed_draws_other_scenes(scenes: list[PlantScene]) -> None:
    others = list(plant_scenes(40, seed=6))
    assert [s.label for s in others] != [s.label for s in scenes[:40]]
    assert others[0].image.tobytes() != scenes[0].image.tobytes()


def test_every_twenty_scenes_hold_eleven_healthy_and_nine_wilting(
    scenes: list[PlantScene],
) -> None:
    for start, end in pairwise(range(0, COUNT + 1, 20)):
        labels = [scene.label for scene in scenes[start:end]]
        assert (labels.count("healthy"), labels.count("wilting")) == (11, 9)


def test_names_are_unique_and_do_not_give_the_label_away(scenes: list[PlantScene]) -> None:
    assert scenes[7].name == "greenhouse-0007"
    assert len({scene.name for scene in scenes}) == COUNT


def test_photos_are_about_320_by_240_in_several_formats(scenes: list[PlantScene]) -> None:
    sizes = {scene.image.size for scene in scenes}
    assert len(sizes) >= 4
    assert all(200 <= side <= 340 for size in sizes for side in size)
    assert {scene.image.mode for scene in scenes} == {"RGB"}


def _lift(species: Species, condition: plants.Condition) -> float:
    """How high leaf tips are above the soil, in plant heights, averaged over ten plants."""
    tips = []
    for seed in range(10):
        leaves = plants.grow_plant(species, condition, np.random.default_rng(seed)).leaves
        shape = (leaves.base, leaves.azimuth, leaves.elevation, leaves.droop, leaves.length)
        tips.append(trace_midribs(*shape, 6)[:, -1, 2].mean())
    return float(np.mean(tips))


@pytest.mark.parametrize("species", SPECIES, ids=lambda species: species.name)
def test_a_limp_plant_hangs_lower_than_a_firm_one(species: Species) -> None:
    firm = plants.Condition(droop=0.05, decay=0.0, curl_share=0.0, gloss=0.2, old_leaf_share=0.0)
    limp = plants.Condition(droop=0.7, decay=0.0, curl_share=0.3, gloss=0.0, old_leaf_share=0.0)
    assert _lift(species, limp) < _lift(species, firm) - 0.1


def test_colour_alone_does_not_tell() -> None:
    """Of wilting plants about a quarter is green; of healthy ones some have turned leaves."""
    rng = np.random.default_rng(0)
    wilting = [plants.sample_wilting(rng) for _ in range(400)]
    green = [condition for condition in wilting if condition.decay <= 0.1]
    assert 0.15 < len(green) / len(wilting) < 0.35
    assert min(condition.droop for condition in green) > 0.75
    assert any(plants.sample_healthy(rng).old_leaf_share > 0 for _ in range(20))


def _accuracy(
    rows: npt.NDArray[np.float32], labels: npt.NDArray[np.str_], count: int, seed: int
) -> float:
    """On held-out scenes, after training on so many random others."""
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out, train = order[:HELD_OUT], order[HELD_OUT : HELD_OUT + count]
    model = LogisticRegression(C=30, max_iter=500).fit(rows[train], labels[train])
    return float(model.score(rows[held_out], labels[held_out]))


def test_accuracy_rises_with_labels_and_a_few_are_not_enough(scenes: list[PlantScene]) -> None:
    rows = np.stack([extract_features(scene.image) for scene in scenes])
    labels = np.array([scene.label for scene in scenes])
    few, some, many = (
        float(np.mean([_accuracy(rows, labels, count, seed) for seed in range(SEEDS)]))
        for count in (10, 40, 140)
    )
    assert few < 0.75
    assert some > few + 0.06
    assert many > some + 0.03
    assert many > 0.83
