"""Compute the shape, lighting and colour of leaves as bent surfaces.

Lengths are in plant heights: x to the right, y towards the camera, z up. Angles are in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.arrays import Doubles
from demo.scenes.drawing import Sunlight, blend_colours, normalize_vectors

LIMP_TIP_ELEVATION = np.radians(-86.0)
"""Elevation of the tip of a completely limp leaf."""

CREAM_RGB = (222.0, 218.0, 168.0)
STRAW_RGB = (186.0, 160.0, 78.0)
BROWN_RGB = (104.0, 72.0, 42.0)


@dataclass(frozen=True)
class CameraView:
    """Projection of one plant: pixel of its base, pixels per plant height, and camera pitch."""

    x: float
    y: float
    scale: float
    camera_pitch: float

    def project(self, points: Doubles) -> Doubles:
        """Project points ``(..., 3)`` to pixels ``(..., 2)``."""
        rows = points[..., 2] * np.cos(self.camera_pitch) - points[..., 1] * np.sin(
            self.camera_pitch
        )
        return np.stack([self.x + self.scale * points[..., 0], self.y - self.scale * rows], -1)

    def camera_direction(self) -> Doubles:
        """Return the unit vector ``(3,)`` from the plant to the camera."""
        return np.array([0.0, np.cos(self.camera_pitch), np.sin(self.camera_pitch)])


@dataclass(frozen=True)
class Leaves:
    """n leaves, one row each; all arrays are float64.

    Attributes:
        base: ``(n, 3)`` start of each leaf.
        azimuth: ``(n,)`` direction seen from above.
        elevation: ``(n,)`` elevation at the base.
        droop: ``(n,)`` 0: straight; 1: the tip hangs straight down.
        length: ``(n,)`` along the midrib.
        width: ``(n,)`` largest half width, before folding.
        fold: ``(n,)`` angle of the halves, up if positive.
        colour: ``(n, 3)`` RGB of the fresh leaf, 0 to 255.
        decay: ``(n,)`` 0: fresh; 1: dry.
        variegation: ``(n,)`` share of cream in the margin.
    """

    base: Doubles
    azimuth: Doubles
    elevation: Doubles
    droop: Doubles
    length: Doubles
    width: Doubles
    fold: Doubles
    colour: Doubles
    decay: Doubles
    variegation: Doubles


def trace_midribs(
    base: Doubles,
    azimuth: Doubles,
    base_elevation: Doubles,
    droop_shares: Doubles,
    length: Doubles,
    steps: int,
) -> Doubles:
    """Trace midribs ``(n, steps + 1, 3)`` of leaves or stems that bend under gravity."""
    positions = (np.arange(steps) + 0.5) / steps
    elevation = (
        base_elevation[:, None]
        + (LIMP_TIP_ELEVATION - base_elevation[:, None]) * droop_shares[:, None] * positions**0.9
    )
    horizontal = np.cos(elevation)
    headings = np.stack(
        [
            horizontal * np.cos(azimuth)[:, None],
            horizontal * np.sin(azimuth)[:, None],
            np.sin(elevation),
        ],
        -1,
    )
    offsets = np.cumsum(headings * (length[:, None, None] / steps), axis=1)
    return np.asarray(np.concatenate([base[:, None], base[:, None] + offsets], axis=1))


def compute_leaf_surfaces(leaves: Leaves, profile: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Compute the surfaces of n leaves from half widths ``(steps + 1,)`` along the midrib.

    Returns:
        midribs ``(n, steps + 1, 3)``, the edges ``(n, 2, steps + 1, 3)`` and the unit normals
        ``(n, 2, steps, 3)`` of both halves.
    """
    spine_arguments = (leaves.base, leaves.azimuth, leaves.elevation, leaves.droop, leaves.length)
    midribs = trace_midribs(*spine_arguments, len(profile) - 1)
    tangent = normalize_vectors(np.gradient(midribs, axis=1))
    sideways = np.stack(
        [-np.sin(leaves.azimuth), np.cos(leaves.azimuth), np.zeros(len(midribs))], -1
    )[:, None]
    upward = np.cross(tangent, sideways)
    fold_angles = leaves.fold[:, None, None]
    half_widths = (leaves.width[:, None] * profile)[..., None]
    sides = [
        sign * sideways * np.cos(fold_angles) + upward * np.sin(fold_angles) for sign in (1.0, -1.0)
    ]
    edges = np.stack([midribs + side * half_widths for side in sides], 1)
    normals = np.stack(
        [
            normalize_vectors(np.cross(tangent, side_vectors)) * sign_of_side
            for side_vectors, sign_of_side in zip(sides, (1.0, -1.0), strict=True)
        ],
        1,
    )
    return midribs, edges, normals[:, :, :-1]


def compute_lighting(
    normals: Doubles, sun: Sunlight, to_camera: Doubles, gloss: float
) -> tuple[Doubles, Doubles]:
    """Compute the diffuse and specular light ``(n, 2, steps)`` of surfaces from unit normals."""
    facing = normals @ sun.direction
    diffuse = np.where(facing > 0, facing, -0.5 * facing)
    half_vector = normalize_vectors(sun.direction + to_camera)
    shine = gloss * np.clip(np.abs(normals @ half_vector), 0, 1) ** 14
    return np.asarray(sun.ambient + (1 - sun.ambient) * diffuse), np.asarray(shine)


def colour_leaves(leaves: Leaves, steps: int, rng: np.random.Generator) -> Doubles:
    """Compute the RGB ``(n, 2, steps, 3)`` of all pieces without lighting, fresh to brown."""
    shape = (len(leaves.length), 2, steps)
    positions = (np.arange(steps) + 1) / steps
    colours_by_piece = leaves.colour[:, None, None] * rng.normal(1.0, 0.03, shape)[..., None]
    colours_by_piece = blend_colours(
        colours_by_piece, CREAM_RGB, np.broadcast_to(leaves.variegation[:, None, None], shape)
    )
    noise = rng.normal(0.0, 0.12, shape) + (positions - 0.75)
    dryness = np.clip(leaves.decay[:, None, None] * 1.5 + noise, 0, 1) * (
        leaves.decay[:, None, None] > 0.02
    )
    colours_by_piece = blend_colours(colours_by_piece, STRAW_RGB, np.clip(dryness * 1.3, 0, 0.92))
    return blend_colours(colours_by_piece, BROWN_RGB, np.clip(dryness * 2.2 - 1.25, 0, 0.9))
