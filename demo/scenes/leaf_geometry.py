"""Leaves as bent surfaces in space: where they hang, how light falls on them, how they dry.

Space is measured in plant heights: x to the right, y towards the camera, z up. Angles are radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DOWN = np.radians(-86.0)
"""The elevation at which a wholly limp leaf tip hangs."""

CREAM = (222.0, 218.0, 168.0)
STRAW = (186.0, 160.0, 78.0)
BROWN = (104.0, 72.0, 42.0)


@dataclass(frozen=True)
class View:
    """The camera as one plant sees it.

    Attributes:
        x: Column of the plant's foot, in pixels.
        y: Row of the plant's foot, in pixels.
        scale: Pixels in one plant height.
        pitch: How far the camera looks down, in radians.
    """

    x: float
    y: float
    scale: float
    pitch: float

    def project(self, points: Floats) -> Floats:
        """Pixels ``(..., 2)`` of points in space ``(..., 3)``."""
        rows = points[..., 2] * np.cos(self.pitch) - points[..., 1] * np.sin(self.pitch)
        return np.stack([self.x + self.scale * points[..., 0], self.y - self.scale * rows], -1)

    def toward(self) -> Floats:
        """The unit vector ``(3,)`` from the plant to the camera."""
        return np.array([0.0, np.cos(self.pitch), np.sin(self.pitch)])


@dataclass(frozen=True)
class Sun:
    """Where the light comes from.

    Attributes:
        direction: Unit vector ``(3,)`` from the plant to the light.
        ambient: Share of the light that comes from everywhere, 0 to 1.
    """

    direction: Floats
    ambient: float


@dataclass(frozen=True)
class Leaves:
    """n leaves, one row each; all arrays are float64.

    Attributes:
        base: ``(n, 3)`` where each leaf starts.
        azimuth: ``(n,)`` the way it points, seen from above.
        rise: ``(n,)`` elevation at the base.
        limp: ``(n,)`` 0 keeps its elevation, 1 hangs straight down at the tip.
        length: ``(n,)`` along the midrib.
        width: ``(n,)`` of the widest half, before it folds.
        fold: ``(n,)`` how far the halves turn up (positive) or hang (negative) from the midrib.
        tint: ``(n, 3)`` RGB of the living leaf, 0 to 255.
        decay: ``(n,)`` 0 fresh, 1 dry from tip to base.
        mottle: ``(n,)`` how cream the margin is: 0 plain, 1 strongly variegated.
    """

    base: Floats
    azimuth: Floats
    rise: Floats
    limp: Floats
    length: Floats
    width: Floats
    fold: Floats
    tint: Floats
    decay: Floats
    mottle: Floats


def spines(
    base: Floats, azimuth: Floats, rise: Floats, limp: Floats, length: Floats, steps: int
) -> Floats:
    """Midribs ``(n, steps + 1, 3)`` of leaves or stems that start upward and bow to gravity."""
    along = (np.arange(steps) + 0.5) / steps
    elevation = rise[:, None] + (DOWN - rise[:, None]) * limp[:, None] * along**0.9
    level = np.cos(elevation)
    headings = np.stack(
        [
            level * np.cos(azimuth)[:, None],
            level * np.sin(azimuth)[:, None],
            np.sin(elevation),
        ],
        -1,
    )
    walked = np.cumsum(headings * (length[:, None, None] / steps), axis=1)
    return np.asarray(np.concatenate([base[:, None], base[:, None] + walked], axis=1))


def unit(vectors: Floats) -> Floats:
    """The vectors ``(..., 3)`` at length one."""
    sizes = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return np.asarray(vectors / np.maximum(sizes, 1e-9))


def blades(leaves: Leaves, profile: Floats) -> tuple[Floats, Floats, Floats]:
    """The surface of every leaf.

    Args:
        leaves: n leaves.
        profile: ``(steps + 1,)`` half width along the midrib, 0 to 1.

    Returns:
        The midribs ``(n, steps + 1, 3)``, the edges ``(n, 2, steps + 1, 3)`` and the unit normals
        ``(n, 2, steps, 3)`` of the two halves.
    """
    bare = (leaves.base, leaves.azimuth, leaves.rise, leaves.limp, leaves.length)
    rib = spines(*bare, len(profile) - 1)
    tangent = unit(np.gradient(rib, axis=1))
    level = np.stack([-np.sin(leaves.azimuth), np.cos(leaves.azimuth), np.zeros(len(rib))], -1)[
        :, None
    ]
    up = np.cross(tangent, level)
    turn = leaves.fold[:, None, None]
    reach = (leaves.width[:, None] * profile)[..., None]
    sides = [sign * level * np.cos(turn) + up * np.sin(turn) for sign in (1.0, -1.0)]
    edges = np.stack([rib + side * reach for side in sides], 1)
    normals = np.stack(
        [unit(np.cross(tangent, s)) * g for s, g in zip(sides, (1.0, -1.0), strict=True)], 1
    )
    return rib, edges, normals[:, :, :-1]


def shades(normals: Floats, sun: Sun, toward: Floats, gloss: float) -> tuple[Floats, Floats]:
    """Brightness and shine ``(n, 2, steps)`` of surfaces with these unit normals."""
    facing = normals @ sun.direction
    lit = np.where(facing > 0, facing, -0.5 * facing)
    half = unit(sun.direction + toward)
    shine = gloss * np.clip(np.abs(normals @ half), 0, 1) ** 14
    return np.asarray(sun.ambient + (1 - sun.ambient) * lit), np.asarray(shine)


def paint(leaves: Leaves, steps: int, rng: np.random.Generator) -> Floats:
    """The unlit RGB ``(n, 2, steps, 3)`` of every piece: fresh, variegated, yellow, brown."""
    shape = (len(leaves.length), 2, steps)
    along = (np.arange(steps) + 1) / steps
    tint = leaves.tint[:, None, None] * rng.normal(1.0, 0.03, shape)[..., None]
    tint = blend(tint, CREAM, np.broadcast_to(leaves.mottle[:, None, None], shape))
    spread = rng.normal(0.0, 0.12, shape) + (along - 0.75)
    dry = np.clip(leaves.decay[:, None, None] * 1.5 + spread, 0, 1) * (
        leaves.decay[:, None, None] > 0.02
    )
    tint = blend(tint, STRAW, np.clip(dry * 1.3, 0, 0.92))
    return blend(tint, BROWN, np.clip(dry * 2.2 - 1.25, 0, 0.9))


def blend(colours: Floats, other: tuple[float, float, float], share: Floats) -> Floats:
    """RGB ``(..., 3)`` moved towards another colour by a share ``(...)`` of 0 to 1."""
    return np.asarray(colours + (np.asarray(other) - colours) * share[..., None])
