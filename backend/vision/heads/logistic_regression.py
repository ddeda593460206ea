"""Many small logistic regressions at once: the convex problem under a head, and its solver.

All problems share the rows and differ in which of them they see (folds), in how hard they are
pulled to their prior (ridges) and in the prior itself, so one matrix product serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats

if TYPE_CHECKING:
    import torch

    Oracle = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

NEVER = -1e4
"""Logit of a label that cannot be: its probability is 0 in float32, and sums stay finite."""
CURVATURE = 0.05
"""Mean p(1 − p) that the preconditioner assumes: between the bound 1/4 and what a fit ends with."""
EXACT, ROUGH = 3e-7, 2e-4
"""How far from its optimum a fit may stop, in nats per row; ROUGH is for comparing ridges."""
ITERATIONS = 200
HISTORY = 10
SHORTEST = 1e-3
"""A step that would have to be shorter is not taken."""
SUFFICIENT = 1e-4
"""Share of the promised decrease that a step must keep (Armijo)."""
NOISE, TINY = 1e-7, 1e-20
"""Relative rounding of a float32 sum; what stands in for 0 in a divisor."""


@dataclass(frozen=True)
class Problems:
    """R ridges × F folds of one problem: Σ_rows loss + ridge / 2 · ‖W − prior‖².

    The loss of a row is −Σ_k y_k log softmax(W z)_k over the labels that were asked, or with
    ``multiple`` Σ_k log(1 + e^l_k) − y_k l_k, l = W z. The sum of the losses grows with the labels
    and the pull does not, so the pull on a label falls as 1 / n_k, the rule of CLAP
    (arXiv 2312.12730).

    Attributes:
        features: (n, r) float32 rows z.
        targets: (n, K) float32, 0 to 1, NaN where nobody was asked.
        rows: (F, n) float32, 1 where a fold trains on a row, else 0.
        prior: (F, K, r) float32 weights that the problems of a fold are pulled to.
        closed: (F, K) bool, labels that a fold does not predict; their weights stay at the prior.
        ridges: (R) strength of the pull, > 0.
        multiple: K sigmoids instead of one softmax.
    """

    features: Floats
    targets: Floats
    rows: Floats
    prior: Floats
    closed: npt.NDArray[np.bool_]
    ridges: tuple[float, ...]
    multiple: bool


def solve(problems: Problems, start: Floats | None = None, tolerance: float = EXACT) -> Floats:
    """Solve all problems together, by full-batch LBFGS.

    The variable is U with W = prior + U L⁻¹ and L Lᵀ = CURVATURE ZᵀZ + ridge · I, the geometric
    mean of the ridges: a fixed curvature (after Böhning 1992) as preconditioner, with which some 20
    steps do for any spectrum of Z.

    Args:
        problems: what to solve.
        start: (K, r) float32 weights to start every problem from; the prior where NaN or None.
        tolerance: about how far from its optimum a fit may stop, in nats per row.

    Returns:
        (R, F, K, r) float32 weights.
    """
    objective = _Objective(problems)
    limits = tolerance * objective.sizes.repeat(len(problems.ridges))
    step = _minimise(objective, objective.encoded(start), limits)
    return np.asarray((objective.prior + objective.decoded(step)).numpy(), dtype=np.float32)


class _Objective:
    """The objectives as functions of the preconditioned variable U, (R·F, K, r)."""

    def __init__(self, problems: Problems) -> None:
        import torch

        self.multiple = problems.multiple
        self.features = torch.from_numpy(problems.features)
        self.prior = torch.from_numpy(problems.prior)  # (F, K, r)
        self.ridges = torch.tensor(problems.ridges)[:, None, None, None]
        self.shape = (len(problems.ridges), *self.prior.shape)  # R, F, K, r
        rows = torch.from_numpy(problems.rows)  # (F, n)
        self.sizes = rows.sum(1).clamp(min=1)  # (F)
        asked = torch.from_numpy(~np.isnan(problems.targets))  # (n, K)
        used = asked[:, None] & torch.from_numpy(~problems.closed)  # (n, F, K)
        self.weights = (used * rows.T[..., None])[:, None]  # (n, 1, F, K)
        self.targets = torch.from_numpy(np.nan_to_num(problems.targets))[:, None, None]
        self.offsets = torch.einsum("nr,fkr->nfk", self.features, self.prior)[:, None]
        if not self.multiple:
            self.offsets = self.offsets.masked_fill(~used[:, None], NEVER)
        self.inverse = self._inverse()  # (r, r), L⁻¹

    def _inverse(self) -> torch.Tensor:
        import torch

        identity = torch.eye(self.features.shape[1])
        middle = self.ridges.log().mean().exp()
        curved = CURVATURE * (self.features.T @ self.features) + middle * identity
        return torch.linalg.solve_triangular(torch.linalg.cholesky(curved), identity, upper=False)

    def decoded(self, step: torch.Tensor) -> torch.Tensor:
        """U → W − prior, (R, F, K, r)."""
        return (step.flatten(0, 1) @ self.inverse).view(self.shape)

    def encoded(self, start: Floats | None) -> torch.Tensor:
        """W → U."""
        import torch

        ridges, folds, labels, width = self.shape
        if start is None:
            return torch.zeros((ridges * folds, labels, width))
        gap = (torch.from_numpy(start) - self.prior).nan_to_num().flatten(0, 1)
        solved = torch.linalg.solve_triangular(self.inverse, gap, upper=False, left=False)
        return solved.view(folds, labels, width).repeat(ridges, 1, 1)

    def __call__(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R·F) and gradients (R·F, K, r) at U."""
        weights = self.decoded(step)
        flat = weights.flatten(0, 2)  # (RFK, r)
        logits = (self.features @ flat.T).view(-1, *self.shape[:3]) + self.offsets
        losses, slopes = self._losses(logits)  # (R, F), (n, R, F, K)
        penalty = (self.ridges * weights.square()).sum((2, 3)) / 2
        upward = (slopes.flatten(1).T @ self.features).view(self.shape) + self.ridges * weights
        gradient = upward.flatten(0, 2) @ self.inverse.mT
        return (losses + penalty).flatten(), gradient.view_as(step)

    def _losses(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of the rows' losses (R, F), and their slopes by logit (n, R, F, K)."""
        import torch

        if self.multiple:
            losses = torch.nn.functional.softplus(logits) - self.targets * logits
            slopes = (torch.sigmoid(logits) - self.targets) * self.weights
            return (losses * self.weights).sum((0, 3)), slopes
        logs = torch.log_softmax(logits, -1)
        losses = -(self.weights * self.targets * logs).sum((0, 3))
        mass = (self.weights * self.targets).sum(-1, keepdim=True)
        return losses, mass * logs.exp() - self.weights * self.targets


@dataclass(frozen=True)
class _Place:
    """Where B functions stand: points (B, K, r), values (B), gradients (B, K, r)."""

    point: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


def _minimise(oracle: Oracle, start: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """LBFGS (Liu and Nocedal 1989) on B separate convex functions in step.

    Args:
        oracle: points (B, K, r) → values (B) and gradients (B, K, r).
        start: (B, K, r) first points.
        limits: (B) a function is done when half its squared gradient is below: where the
            curvature is about 1, that is what could still be gained.

    Returns:
        (B, K, r) points.
    """
    here = _Place(start, *oracle(start))
    pairs: list[_Pair] = []
    active = _dot(here.gradient, here.gradient) / 2 > limits
    for _ in range(ITERATIONS):
        if not active.any():
            break
        there = _searched(oracle, here, _direction(here.gradient, pairs), active)
        gained = here.value - there.value > NOISE * here.value
        active &= gained & (_dot(there.gradient, there.gradient) / 2 > limits)
        pairs = [*pairs[1 - HISTORY :], _Pair.between(here, there)]
        here = there
    return here.point


def _searched(oracle: Oracle, here: _Place, way: torch.Tensor, active: torch.Tensor) -> _Place:
    """Halve each step until its function decreases enough; idle functions stay where they are."""
    slope = _dot(here.gradient, way)
    length = active.to(slope.dtype)
    while True:
        point = here.point + length[:, None, None] * way
        there = _Place(point, *oracle(point))
        enough = here.value * (1 + NOISE) + SUFFICIENT * length * slope
        failed = ~(there.value <= enough) & (length > 0)
        if not failed.any():
            return there
        length = (length * (1 - 0.5 * failed)) * (length > SHORTEST)


@dataclass(frozen=True)
class _Pair:
    """One step's moves and changes of gradient (B, K, r); 1 / their product, 0 for no step (B)."""

    move: torch.Tensor
    change: torch.Tensor
    rate: torch.Tensor

    @classmethod
    def between(cls, here: _Place, there: _Place) -> _Pair:
        move, change = there.point - here.point, there.gradient - here.gradient
        product = _dot(move, change)
        return cls(move, change, (product > 0) / product.clamp(min=TINY))


def _direction(gradient: torch.Tensor, pairs: list[_Pair]) -> torch.Tensor:
    """The two-loop recursion: −(approximate inverse Hessian) · gradient, function by function."""
    way, shares = -gradient, []
    for pair in reversed(pairs):
        shares.append(pair.rate * _dot(pair.move, way))
        way = way - shares[-1][:, None, None] * pair.change
    if pairs:
        way = way * _scale(pairs[-1])[:, None, None]
    for pair, share in zip(pairs, reversed(shares), strict=True):
        way = way + (share - pair.rate * _dot(pair.change, way))[:, None, None] * pair.move
    return way


def _scale(last: _Pair) -> torch.Tensor:
    """The last step's inverse curvature (B); 1 where no step was taken."""
    import torch

    squared = _dot(last.change, last.change).clamp(min=TINY)
    return torch.where(last.rate > 0, 1 / (last.rate * squared).clamp(min=TINY), 1.0)


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B, K, r), (B, K, r) → (B)."""
    return (one * other).sum((1, 2))
