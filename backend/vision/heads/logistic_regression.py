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

IMPOSSIBLE_LOGIT = -1e4
"""Logit of a label that cannot be: its probability is 0 in float32, and sums stay finite."""
ASSUMED_CURVATURE = 0.05
"""Mean p(1 − p) that the preconditioner assumes: between the bound 1/4 and what a fit ends with."""
FINAL_TOLERANCE, COARSE_TOLERANCE = 3e-7, 2e-4
"""How far from its optimum a fit may stop, in nats per row; ROUGH is for comparing ridges."""
MAX_ITERATIONS = 200
LBFGS_HISTORY_SIZE = 10
MIN_STEP_LENGTH = 1e-3
"""A step that would have to be shorter is not taken."""
ARMIJO_CONSTANT = 1e-4
"""Share of the promised decrease that a step must keep (Armijo)."""
FLOAT32_RELATIVE_ERROR, DIVISOR_EPSILON = 1e-7, 1e-20
"""Relative rounding of a float32 sum; what stands in for 0 in a divisor."""


@dataclass(frozen=True)
class LogisticProblems:
    """R ridges × F folds of one problem: Σ_rows loss + ridge / 2 · ‖W − prior‖².

    The loss of a row is −Σ_k y_k log softmax(W z)_k over the labels that were asked, or with
    ``multiple`` Σ_k log(1 + e^l_k) − y_k l_k, l = W z. The sum of the losses grows with the labels
    and the pull does not, so the pull on a label falls as 1 / n_k, the rule of CLAP
    (arXiv 2312.12730).

    Attributes:
        features: (n, r) float32 rows z.
        targets: (n, K) float32, 0 to 1, NaN where nobody was asked.
        row_masks: (F, n) float32, 1 where a fold trains on a row, else 0.
        prior: (F, K, r) float32 weights that the problems of a fold are pulled to.
        excluded_labels: (F, K) bool, labels that a fold does not predict; their weights stay at the prior.
        ridges: (R) strength of the pull, > 0.
        multiple: K sigmoids instead of one softmax.
    """

    features: Floats
    targets: Floats
    row_masks: Floats
    prior: Floats
    excluded_labels: npt.NDArray[np.bool_]
    ridges: tuple[float, ...]
    multiple: bool


def solve_problems(
    problems: LogisticProblems, start: Floats | None = None, tolerance: float = FINAL_TOLERANCE
) -> Floats:
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
    step = _minimise(objective, objective.to_variable(start), limits)
    return np.asarray(
        (objective.prior + objective.to_weight_change(step)).numpy(), dtype=np.float32
    )


class _Objective:
    """The objectives as functions of the preconditioned variable U, (R·F, K, r)."""

    def __init__(self, problems: LogisticProblems) -> None:
        import torch

        self.multiple = problems.multiple
        self.features = torch.from_numpy(problems.features)
        self.prior = torch.from_numpy(problems.prior)  # (F, K, r)
        self.ridges = torch.tensor(problems.ridges)[:, None, None, None]
        self.shape = (len(problems.ridges), *self.prior.shape)  # R, F, K, r
        rows = torch.from_numpy(problems.row_masks)  # (F, n)
        self.sizes = rows.sum(1).clamp(min=1)  # (F)
        is_asked = torch.from_numpy(~np.isnan(problems.targets))  # (n, K)
        is_used = is_asked[:, None] & torch.from_numpy(~problems.excluded_labels)  # (n, F, K)
        self.weights = (is_used * rows.T[..., None])[:, None]  # (n, 1, F, K)
        self.targets = torch.from_numpy(np.nan_to_num(problems.targets))[:, None, None]
        self.offsets = torch.einsum("nr,fkr->nfk", self.features, self.prior)[:, None]
        if not self.multiple:
            self.offsets = self.offsets.masked_fill(~is_used[:, None], IMPOSSIBLE_LOGIT)
        self.preconditioner = self._inverse()  # (r, r), L⁻¹

    def _inverse(self) -> torch.Tensor:
        import torch

        identity = torch.eye(self.features.shape[1])
        mean_ridge = self.ridges.log().mean().exp()
        curvature_matrix = (
            ASSUMED_CURVATURE * (self.features.T @ self.features) + mean_ridge * identity
        )
        return torch.linalg.solve_triangular(
            torch.linalg.cholesky(curvature_matrix), identity, upper=False
        )

    def to_weight_change(self, step: torch.Tensor) -> torch.Tensor:
        """U → W − prior, (R, F, K, r)."""
        return (step.flatten(0, 1) @ self.preconditioner).view(self.shape)

    def to_variable(self, start: Floats | None) -> torch.Tensor:
        """W → U."""
        import torch

        ridges, folds, labels, width = self.shape
        if start is None:
            return torch.zeros((ridges * folds, labels, width))
        gap = (torch.from_numpy(start) - self.prior).nan_to_num().flatten(0, 1)
        solved = torch.linalg.solve_triangular(self.preconditioner, gap, upper=False, left=False)
        return solved.view(folds, labels, width).repeat(ridges, 1, 1)

    def __call__(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R·F) and gradients (R·F, K, r) at U."""
        weights = self.to_weight_change(step)
        flat = weights.flatten(0, 2)  # (RFK, r)
        logits = (self.features @ flat.T).view(-1, *self.shape[:3]) + self.offsets
        losses, logit_gradients = self._losses(logits)  # (R, F), (n, R, F, K)
        penalty = (self.ridges * weights.square()).sum((2, 3)) / 2
        weight_gradient = (logit_gradients.flatten(1).T @ self.features).view(
            self.shape
        ) + self.ridges * weights
        gradient = weight_gradient.flatten(0, 2) @ self.preconditioner.mT
        return (losses + penalty).flatten(), gradient.view_as(step)

    def _losses(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of the rows' losses (R, F), and their slopes by logit (n, R, F, K)."""
        import torch

        if self.multiple:
            losses = torch.nn.functional.softplus(logits) - self.targets * logits
            logit_gradients = (torch.sigmoid(logits) - self.targets) * self.weights
            return (losses * self.weights).sum((0, 3)), logit_gradients
        log_probabilities = torch.log_softmax(logits, -1)
        losses = -(self.weights * self.targets * log_probabilities).sum((0, 3))
        target_mass = (self.weights * self.targets).sum(-1, keepdim=True)
        return losses, target_mass * log_probabilities.exp() - self.weights * self.targets


@dataclass(frozen=True)
class _Iterate:
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
    current = _Iterate(start, *oracle(start))
    pairs: list[_CurvaturePair] = []
    active = _dot(current.gradient, current.gradient) / 2 > limits
    for _ in range(MAX_ITERATIONS):
        if not active.any():
            break
        candidate = _line_search(oracle, current, _lbfgs_direction(current.gradient, pairs), active)
        is_improved = current.value - candidate.value > FLOAT32_RELATIVE_ERROR * current.value
        active &= is_improved & (_dot(candidate.gradient, candidate.gradient) / 2 > limits)
        pairs = [*pairs[1 - LBFGS_HISTORY_SIZE :], _CurvaturePair.from_iterates(current, candidate)]
        current = candidate
    return current.point


def _line_search(
    oracle: Oracle, current: _Iterate, direction: torch.Tensor, active: torch.Tensor
) -> _Iterate:
    """Halve each step until its function decreases enough; idle functions stay where they are."""
    slope = _dot(current.gradient, direction)
    step_length = active.to(slope.dtype)
    while True:
        point = current.point + step_length[:, None, None] * direction
        candidate = _Iterate(point, *oracle(point))
        armijo_bound = (
            current.value * (1 + FLOAT32_RELATIVE_ERROR) + ARMIJO_CONSTANT * step_length * slope
        )
        failed = ~(candidate.value <= armijo_bound) & (step_length > 0)
        if not failed.any():
            return candidate
        step_length = (step_length * (1 - 0.5 * failed)) * (step_length > MIN_STEP_LENGTH)


@dataclass(frozen=True)
class _CurvaturePair:
    """One step's moves and changes of gradient (B, K, r); 1 / their product, 0 for no step (B)."""

    step: torch.Tensor
    gradient_change: torch.Tensor
    inverse_product: torch.Tensor

    @classmethod
    def from_iterates(cls, current: _Iterate, candidate: _Iterate) -> _CurvaturePair:
        step_taken, gradient_delta = (
            candidate.point - current.point,
            candidate.gradient - current.gradient,
        )
        product = _dot(step_taken, gradient_delta)
        return cls(step_taken, gradient_delta, (product > 0) / product.clamp(min=DIVISOR_EPSILON))


def _lbfgs_direction(gradient: torch.Tensor, pairs: list[_CurvaturePair]) -> torch.Tensor:
    """The two-loop recursion: −(approximate inverse Hessian) · gradient, function by function."""
    direction, coefficients = -gradient, []
    for pair in reversed(pairs):
        coefficients.append(pair.inverse_product * _dot(pair.step, direction))
        direction = direction - coefficients[-1][:, None, None] * pair.gradient_change
    if pairs:
        direction = direction * _initial_scale(pairs[-1])[:, None, None]
    for pair, coefficient in zip(pairs, reversed(coefficients), strict=True):
        direction = (
            direction
            + (coefficient - pair.inverse_product * _dot(pair.gradient_change, direction))[
                :, None, None
            ]
            * pair.step
        )
    return direction


def _initial_scale(last: _CurvaturePair) -> torch.Tensor:
    """The last step's inverse curvature (B); 1 where no step was taken."""
    import torch

    squared = _dot(last.gradient_change, last.gradient_change).clamp(min=DIVISOR_EPSILON)
    return torch.where(
        last.inverse_product > 0,
        1 / (last.inverse_product * squared).clamp(min=DIVISOR_EPSILON),
        1.0,
    )


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B, K, r), (B, K, r) → (B)."""
    return (one * other).sum((1, 2))
