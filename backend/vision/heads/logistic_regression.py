"""Solve many small regularized logistic regressions in one batch.

The problems share the features and differ in training rows (folds), ridge and prior, so that one
matrix product evaluates all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Bools, Floats

if TYPE_CHECKING:
    import torch

    Oracle = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

IMPOSSIBLE_LOGIT = -1e4
"""Logit of a label that cannot be predicted: finite, with probability 0 in float32."""
ASSUMED_CURVATURE = 0.05
"""Mean p(1 − p) assumed by the preconditioner: less than the bound 1/4, more than after a fit."""
FINAL_TOLERANCE, COARSE_TOLERANCE = 3e-7, 2e-4
"""Distance from the optimum in nats per row, for the final fit and for cross-validation."""
MAX_ITERATIONS = 200
LBFGS_HISTORY_SIZE = 10
MIN_STEP_LENGTH = 1e-3
"""Step length below which the line search gives up."""
ARMIJO_CONSTANT = 1e-4
"""Constant of the sufficient-decrease condition (Armijo)."""
FLOAT32_RELATIVE_ERROR, DIVISOR_EPSILON = 1e-7, 1e-20
"""Relative rounding error of a float32 sum; minimum of a divisor."""


@dataclass(frozen=True)
class LogisticProblems:
    """Minimize Σ_rows loss + ridge / 2 · ‖W − prior‖² for R ridges × F folds.

    The loss of a row is −Σ_k y_k log softmax(W z)_k over the offered labels, or with ``multiple``
    Σ_k log(1 + e^l_k) − y_k l_k, l = W z. The losses are summed, so the relative weight of the
    penalty on a label falls as 1 / n_k, as in CLAP (arXiv 2312.12730).

    Attributes:
        features: (n, r) float32 rows z.
        targets: (n, K) float32, 0 to 1, NaN for labels that the annotator was not offered.
        row_masks: (F, n) float32, 1 for the training rows of each fold.
        prior: (F, K, r) float32 prior weights.
        excluded_labels: (F, K) bool, labels excluded from the loss; their weights equal the prior.
        ridges: R regularization strengths > 0.
        multiple: multi-label: K sigmoids instead of one softmax.
    """

    features: Floats
    targets: Floats
    row_masks: Floats
    prior: Floats
    excluded_labels: Bools
    ridges: tuple[float, ...]
    multiple: bool


def solve_problems(
    problems: LogisticProblems, start: Floats | None = None, tolerance: float = FINAL_TOLERANCE
) -> Floats:
    """Solve all problems together by full-batch L-BFGS: (R, F, K, r) float32 weights.

    The optimization variable is U, W = prior + U L⁻¹, with the preconditioner L Lᵀ = c ZᵀZ +
    ridge · I, the geometric mean of the ridges and c = ``ASSUMED_CURVATURE`` (after Böhning 1992).
    About 20 steps suffice, however the eigenvalues of ZᵀZ are distributed.

    Args:
        problems: the problems.
        start: (K, r) float32 initial weights of all problems; the prior where NaN or None.
        tolerance: approximate distance from the optimum in nats per row.
    """
    objective = _Objective(problems)
    limits = tolerance * objective.sizes.repeat(len(problems.ridges))
    step = _minimize(objective, objective.to_variable(start), limits)
    weights = objective.prior + objective.to_weight_change(step)
    return np.asarray(weights.numpy(), dtype=np.float32)


class _Objective:
    """The objectives of all problems as functions of U, (R·F, K, r)."""

    def __init__(self, problems: LogisticProblems) -> None:
        import torch

        self.multiple = problems.multiple
        self.features = torch.from_numpy(problems.features)
        self.prior = torch.from_numpy(problems.prior)  # (F, K, r)
        self.ridges = torch.tensor(problems.ridges)[:, None, None, None]
        self.shape = (len(problems.ridges), *self.prior.shape)  # R, F, K, r
        rows = torch.from_numpy(problems.row_masks)  # (F, n)
        self.sizes = rows.sum(1).clamp(min=1)  # (F)
        is_offered = torch.from_numpy(~np.isnan(problems.targets))  # (n, K)
        is_used = is_offered[:, None] & torch.from_numpy(~problems.excluded_labels)  # (n, F, K)
        self.weights = (is_used * rows.T[..., None])[:, None]  # (n, 1, F, K)
        self.targets = torch.from_numpy(np.nan_to_num(problems.targets))[:, None, None]
        self.offsets = torch.einsum("nr,fkr->nfk", self.features, self.prior)[:, None]
        if not self.multiple:
            self.offsets = self.offsets.masked_fill(~is_used[:, None], IMPOSSIBLE_LOGIT)
        self.preconditioner = self._inverse_cholesky()  # (r, r), L⁻¹

    def _inverse_cholesky(self) -> torch.Tensor:
        import torch

        identity = torch.eye(self.features.shape[1])
        ridge = self.ridges.log().mean().exp()
        curvature = ASSUMED_CURVATURE * (self.features.T @ self.features) + ridge * identity
        factor = torch.linalg.cholesky(curvature)
        return torch.linalg.solve_triangular(factor, identity, upper=False)

    def to_weight_change(self, step: torch.Tensor) -> torch.Tensor:
        """Convert U to W − prior, (R, F, K, r)."""
        return (step.flatten(0, 1) @ self.preconditioner).view(self.shape)

    def to_variable(self, start: Floats | None) -> torch.Tensor:
        """Convert initial weights W to U."""
        import torch

        ridges, folds, labels, width = self.shape
        if start is None:
            return torch.zeros((ridges * folds, labels, width))
        change = (torch.from_numpy(start) - self.prior).nan_to_num().flatten(0, 1)
        solved = torch.linalg.solve_triangular(self.preconditioner, change, upper=False, left=False)
        return solved.view(folds, labels, width).repeat(ridges, 1, 1)

    def __call__(self, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return objective values (R·F) and gradients (R·F, K, r) at U."""
        weights = self.to_weight_change(step)
        flat = weights.flatten(0, 2)  # (RFK, r)
        logits = (self.features @ flat.T).view(-1, *self.shape[:3]) + self.offsets
        losses, logit_gradients = self._losses(logits)  # (R, F), (n, R, F, K)
        penalty = (self.ridges * weights.square()).sum((2, 3)) / 2
        loss_gradient = (logit_gradients.flatten(1).T @ self.features).view(self.shape)
        weight_gradient = loss_gradient + self.ridges * weights
        gradient = weight_gradient.flatten(0, 2) @ self.preconditioner.mT
        return (losses + penalty).flatten(), gradient.view_as(step)

    def _losses(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed losses (R, F) and their logit gradients (n, R, F, K)."""
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
    """Points (B, K, r) of B objectives, with their values (B) and gradients (B, K, r)."""

    point: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


def _minimize(oracle: Oracle, start: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Minimize B independent convex functions in one batch by L-BFGS (Liu and Nocedal 1989).

    Args:
        oracle: points (B, K, r) → values (B) and gradients (B, K, r).
        start: (B, K, r) initial points.
        limits: (B) a function has converged when half its squared gradient norm is below this,
            which is the remaining decrease at a curvature of 1.

    Returns:
        (B, K, r) minimizers.
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
    """Backtrack each active function until the Armijo condition holds; others keep their point."""
    slope = _dot(current.gradient, direction)
    step_length = active.to(slope.dtype)
    while True:
        point = current.point + step_length[:, None, None] * direction
        candidate = _Iterate(point, *oracle(point))
        rounded_value = current.value * (1 + FLOAT32_RELATIVE_ERROR)
        armijo_bound = rounded_value + ARMIJO_CONSTANT * step_length * slope
        failed = ~(candidate.value <= armijo_bound) & (step_length > 0)
        if not failed.any():
            return candidate
        step_length = (step_length * (1 - 0.5 * failed)) * (step_length > MIN_STEP_LENGTH)


@dataclass(frozen=True)
class _CurvaturePair:
    """Step s and gradient change y (B, K, r), and 1 / (s · y) (B); 0 if s · y ≤ 0."""

    step: torch.Tensor
    gradient_change: torch.Tensor
    inverse_product: torch.Tensor

    @classmethod
    def from_iterates(cls, current: _Iterate, candidate: _Iterate) -> _CurvaturePair:
        step = candidate.point - current.point
        change = candidate.gradient - current.gradient
        product = _dot(step, change)
        return cls(step, change, (product > 0) / product.clamp(min=DIVISOR_EPSILON))


def _lbfgs_direction(gradient: torch.Tensor, pairs: list[_CurvaturePair]) -> torch.Tensor:
    """Return −(approximate inverse Hessian) · gradient by the L-BFGS two-loop recursion."""
    direction, coefficients = -gradient, []
    for pair in reversed(pairs):
        coefficients.append(pair.inverse_product * _dot(pair.step, direction))
        direction = direction - coefficients[-1][:, None, None] * pair.gradient_change
    if pairs:
        direction = direction * _initial_scale(pairs[-1])[:, None, None]
    for pair, coefficient in zip(pairs, reversed(coefficients), strict=True):
        other = pair.inverse_product * _dot(pair.gradient_change, direction)
        direction = direction + (coefficient - other)[:, None, None] * pair.step
    return direction


def _initial_scale(last: _CurvaturePair) -> torch.Tensor:
    """Return (s · y) / (y · y) of the last step (B), which scales the initial Hessian; else 1."""
    import torch

    squared = _dot(last.gradient_change, last.gradient_change).clamp(min=DIVISOR_EPSILON)
    scale = 1 / (last.inverse_product * squared).clamp(min=DIVISOR_EPSILON)
    return torch.where(last.inverse_product > 0, scale, 1.0)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the dot products of two (B, K, r) batches: (B)."""
    return (a * b).sum((1, 2))
