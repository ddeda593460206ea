"""The head: what it knows from names, learns from labels, and does in odd cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from backend.arrays import Floats
from backend.vision.heads.fit import LabeledRows, class_mean_weights
from backend.vision.heads.head import Head, TextAnchors, fit_head, zero_shot_head

SEEDS = range(6)
LABELS = ("cat", "dog", "owl", "bee")
BLANK = np.nan


def unit(table: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(table / np.linalg.norm(table, axis=-1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class World:
    """Images of four classes on a sphere, most of their variance in a few directions.

    The names are halfway right: each is its class's mean with noise as long as the mean.
    """

    images: Floats
    truth: npt.NDArray[np.intp]
    names: Floats

    @classmethod
    def drawn(cls, seed: int, n: int = 1200, d: int = 48, apart: float = 0.55) -> World:
        rng = np.random.default_rng(seed)
        spectrum = np.arange(1, d + 1) ** -0.5
        means = rng.normal(size=(len(LABELS), d)) * spectrum * apart
        truth = rng.integers(len(LABELS), size=n)
        common = unit(rng.normal(size=d)) * 4  # all images of a project look alike
        images = common + means[truth] + rng.normal(size=(n, d)) * spectrum
        names = means + rng.normal(size=means.shape) * spectrum * apart
        names -= np.outer(names @ common, common) / 16
        return cls(unit(images), truth, unit(names))

    @property
    def targets(self) -> Floats:
        return np.eye(len(LABELS), dtype=np.float32)[self.truth]

    def per_class(self, count: int) -> npt.NDArray[np.intp]:
        rows = [np.flatnonzero(self.truth == k)[:count] for k in range(len(LABELS))]
        return np.concatenate(rows)

    def head(self, rows: npt.NDArray[np.intp], *, named: bool = False, seed: int = 0) -> Head:
        return fit_head(
            self.images[rows],
            self.targets[rows],
            labels=LABELS,
            multiple=False,
            anchors=TextAnchors(self.names, 20.0) if named else None,
            pool=self.images,
            seed=seed,
        )

    def accuracy(self, head: Head) -> float:
        """On the last half, which no test trains on."""
        half = len(self.images) // 2
        given = head.probabilities(self.images[half:]).argmax(1)
        return float((given == self.truth[half:]).mean())


def mean_accuracy(train: Callable[[World], Head]) -> float:
    return float(np.mean([w.accuracy(train(w)) for w in map(World.drawn, SEEDS)]))


# --- before the first annotation ---------------------------------------------------------------


def test_zero_shot_is_the_softmax_of_scaled_cosines() -> None:
    names = np.eye(2, dtype=np.float32)
    head = zero_shot_head(("a", "b"), TextAnchors(names, math.log(3)), multiple=False)
    given = head.probabilities(np.array([[1, 0], [0, 1]], "f4"))
    np.testing.assert_allclose(given, [[0.75, 0.25], [0.25, 0.75]], atol=1e-6)


def test_zero_shot_of_a_sigmoid_encoder_is_its_sigmoid() -> None:
    names = np.eye(2, dtype=np.float32)
    anchors = TextAnchors(names, 10.0, -10 + math.log(3))
    head = zero_shot_head(("a", "b"), anchors, multiple=True)
    given = head.probabilities(np.array([[1, 0]], "f4"))
    np.testing.assert_allclose(given, [[0.75, 3 * math.exp(-10)]], atol=1e-4)


def test_multi_label_zero_shot_has_a_mean_confidence_of_one_in_k_plus_one() -> None:
    world = World.drawn(0)
    head = zero_shot_head(LABELS, TextAnchors(world.names, 20.0), multiple=True, pool=world.images)
    given = head.probabilities(world.images)
    np.testing.assert_allclose(given.mean(0), 1 / 5, atol=0.01)
    right, wrong = given[world.targets > 0].mean(), given[world.targets == 0].mean()
    assert right > wrong + 0.1


def test_without_a_pool_a_label_competes_with_the_mean_of_all_names() -> None:
    """Two names, an image at the first: half the scaled cosine, at odds of 1 to 2."""
    head = zero_shot_head(("a", "b"), TextAnchors(np.eye(2, dtype="f4"), 4.0), multiple=True)
    expected = [1 / (1 + 2 * math.exp(-2)), 1 / (1 + 2 * math.exp(2))]
    np.testing.assert_allclose(head.probabilities(np.array([[1, 0]], "f4"))[0], expected, atol=1e-6)


def test_a_fit_without_labels_is_the_zero_shot_head() -> None:
    world = World.drawn(0)
    head = world.head(np.arange(0), named=True)
    np.testing.assert_array_equal(head.weight, 20 * world.names)
    assert (head.anchored, head.examples, head.ridge_from) == ("text", 0, "none")


# --- learning -----------------------------------------------------------------------------------


def test_labels_do_not_reduce_accuracy_below_zero_shot_and_many_raise_it_far_above() -> None:
    zero = mean_accuracy(lambda w: w.head(np.arange(0), named=True))
    curve = [mean_accuracy(lambda w, k=k: w.head(w.per_class(k), named=True)) for k in (1, 4, 16)]  # type: ignore[misc]
    assert curve[0] > zero - 0.01
    assert all(later > earlier for earlier, later in itertools.pairwise(curve))
    assert curve[-1] > zero + 0.08


def test_text_anchors_help_with_few_labels_and_do_no_harm_with_many() -> None:
    def gain(count: int) -> float:
        named = mean_accuracy(lambda w: w.head(w.per_class(count), named=True))
        return named - mean_accuracy(lambda w: w.head(w.per_class(count)))

    assert gain(1) > 0.1
    assert gain(100) > -0.01


def test_the_head_beats_plain_logistic_regression_at_few_labels() -> None:
    from sklearn.linear_model import LogisticRegression

    plain, ours = [], []
    for world in map(World.drawn, SEEDS):
        rows = np.arange(20)
        model = LogisticRegression().fit(world.images[rows], world.truth[rows])
        half = len(world.images) // 2
        plain.append(model.score(world.images[half:], world.truth[half:]))
        ours.append(world.accuracy(world.head(rows)))
    assert np.mean(ours) > np.mean(plain) + 0.05


def test_confidence_equals_accuracy() -> None:
    """Expected calibration error of ten equally filled bins, at 100 labels, on unseen images."""
    for named in (False, True):
        errors = []
        for world in map(World.drawn, SEEDS):
            given = world.head(np.arange(100), named=named).probabilities(world.images[600:])
            right = given.argmax(1) == world.truth[600:]
            bins = np.array_split(np.argsort(given.max(1)), 10)
            errors.append(np.mean([abs(given.max(1)[b].mean() - right[b].mean()) for b in bins]))
        assert np.mean(errors) < 0.1


def test_multi_label_heads_learn_each_label_separately() -> None:
    errors, base = [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        images = unit(rng.normal(size=(900, 24)) * np.arange(1, 25) ** -0.5)
        targets = (images @ rng.normal(size=(24, 3)) > 0.1).astype(np.float32)
        head = fit_head(
            images[:150], targets[:150], labels=("a", "b", "c"), multiple=True, pool=images
        )
        given = head.probabilities(images[150:]) > 0.5
        errors.append((given != targets[150:]).mean())
        base.append(np.minimum(targets.mean(0), 1 - targets.mean(0)).mean())
    assert np.mean(errors) < 0.12
    assert np.mean(errors) < np.mean(base) / 2


def test_an_unasked_label_is_not_a_negative() -> None:
    """A label that came late: rows before it are blank; taken as no, they would drown it."""
    masked: list[float] = []
    denied: list[float] = []
    for world in map(World.drawn, SEEDS):
        late = world.targets.copy()
        late[:150, 3] = BLANK
        for table, found in ((late, masked), (np.nan_to_num(late), denied)):
            head = fit_head(
                world.images[:200], table[:200], labels=LABELS, multiple=True, pool=world.images
            )
            given = head.probabilities(world.images[600:])[:, 3]
            found.append(float(given[world.truth[600:] == 3].mean()))
    assert np.mean(masked) > np.mean(denied) + 0.15


def test_a_row_without_an_offered_alternative_trains_nothing() -> None:
    world = World.drawn(0)
    rows = world.truth == 0
    targets = np.where(world.targets == 1, 1, BLANK)[rows]
    head = fit_head(
        world.images[rows],
        targets,
        labels=LABELS,
        multiple=False,
        anchors=TextAnchors(world.names, 20.0),
    )
    np.testing.assert_allclose(head.weight, 20 * world.names, atol=1e-4)


# --- odd projects -------------------------------------------------------------------------------

ODD = {
    "one image": ([0], [[1, 0, 0, 0]]),
    "one class": ([0, 1, 2], [[1, 0, 0, 0]] * 3),
    "fewer images than labels": ([0, 1], [[1, 0, 0, 0], [0, 0, 1, 0]]),
    "the same image twelve times": ([0] * 12, [[1, 0, 0, 0]] * 12),
    "one image, two answers": ([0] * 12, [[1, 0, 0, 0], [0, 1, 0, 0]] * 6),
    "no choice in a row": ([0, 1], [[0, 0, 0, 0], [0, 1, 0, 0]]),
    "two choices in a row": ([0, 1], [[1, 1, 0, 0], [0, 1, 0, 0]]),
    "blanks only": ([0, 1], [[BLANK] * 4] * 2),
    "nothing": ([], np.zeros((0, 4))),
}


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("case", ODD)
def test_every_unusual_project_gets_a_usable_head(case: str, named: bool, multiple: bool) -> None:
    world = World.drawn(1, n=40)
    rows, targets = ODD[case]
    head = fit_head(
        world.images[np.array(rows, dtype=np.intp)],
        np.array(targets, "f4"),
        labels=LABELS,
        multiple=multiple,
        anchors=TextAnchors(world.names, 20.0) if named else None,
    )
    given = head.probabilities(world.images)
    assert given.shape == (40, 4)
    assert given.dtype == np.float32
    assert np.isfinite(given).all()
    assert given.min() >= 0
    assert given.max() <= 1
    if not multiple:
        np.testing.assert_allclose(given.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("multiple", [False, True])
def test_a_label_without_an_example_is_predicted_only_with_a_text_anchor(multiple: bool) -> None:
    world = World.drawn(2)
    rows = np.flatnonzero(world.truth < 3)[:60]
    for anchors in (None, TextAnchors(world.names, 20.0)):
        head = fit_head(
            world.images[rows],
            world.targets[rows] if not multiple else np.where(world.targets == 1, 1, BLANK)[rows],
            labels=LABELS,
            multiple=multiple,
            anchors=anchors,
            pool=world.images,
        )
        unseen = head.probabilities(world.images[world.truth == 3])[:, 3]
        assert unseen.max() == 0 if anchors is None else (unseen > 0.5).mean() > 0.1


def test_contradicting_labels_give_equal_confidence() -> None:
    image = unit(np.ones((1, 8)))
    head = fit_head(
        np.repeat(image, 40, axis=0),
        np.eye(2, dtype=np.float32)[np.arange(40) % 2],
        labels=("a", "b"),
        multiple=False,
    )
    np.testing.assert_allclose(head.probabilities(image), [[0.5, 0.5]], atol=0.02)


@pytest.mark.parametrize(
    ("images", "targets", "anchors"),
    [
        (np.ones((3, 4)), np.ones((2, 2)), None),
        (np.ones((3, 4)), np.ones((3, 5)), None),
        (np.ones((3, 4)), np.ones((3, 2)), np.ones((2, 5))),
        (np.full((3, 4), np.inf), np.ones((3, 2)), None),
    ],
)
def test_arguments_that_do_not_match_are_refused(
    images: npt.NDArray[np.floating],
    targets: npt.NDArray[np.floating],
    anchors: npt.NDArray[np.floating] | None,
) -> None:
    with pytest.raises(ValueError, match=r"match|finite"):
        fit_head(
            images.astype("f4"),
            targets.astype("f4"),
            labels=("a", "b"),
            multiple=False,
            anchors=None if anchors is None else TextAnchors(anchors.astype("f4")),
        )


# --- class means --------------------------------------------------------------------------------


def test_class_means_by_hand() -> None:
    """Two rows at 3 and 1 of one label: (3 + 1) / (2 + 1) = 4/3; 20 · 4/3, and −10 · (4/3)²."""
    rows = LabeledRows(
        np.array([[3, 1], [1, 1], [-1, 1]], "f4"),
        np.array([[1, 0], [1, 0], [0, 1]], "f4"),
        multiple=False,
        text_weights=None,
    )
    weights = class_mean_weights(rows, np.ones((1, 3), np.float32))[0]
    np.testing.assert_allclose(weights, [[80 / 3, -160 / 9], [-10, -2.5]], rtol=1e-5)


# --- again and again ----------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("count", [30, 400])
def test_the_same_seed_gives_exactly_the_same_head(count: int, named: bool) -> None:
    world = World.drawn(3)
    one, other = (world.head(np.arange(count), named=named, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.bias, other.bias)
    assert one.temperature == other.temperature


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("count", [40, 300, 1500])
def test_a_warm_start_ends_where_a_cold_one_does(count: int, multiple: bool) -> None:
    world = World.drawn(4, n=2000)
    shared = {"labels": LABELS, "multiple": multiple, "pool": world.images}
    before = fit_head(world.images[: count // 2], world.targets[: count // 2], **shared)  # type: ignore[arg-type]
    images, targets = world.images[:count], world.targets[:count]
    cold = fit_head(images, targets, **shared)  # type: ignore[arg-type]
    warm = fit_head(images, targets, previous=before, **shared)  # type: ignore[arg-type]
    assert warm.ridge == cold.ridge
    gap = np.abs(warm.probabilities(world.images) - cold.probabilities(world.images))
    assert gap.mean() < 0.005
    assert gap.max() < 0.05


def test_hyperparameters_are_reused_after_few_new_labels_and_chosen_again_after_many() -> None:
    world = World.drawn(5)
    before = world.head(np.arange(200))
    assert before.ridge_from == "cross-validation"
    for count, source in ((210, "previous"), (400, "cross-validation")):
        after = fit_head(
            world.images[:count],
            world.targets[:count],
            labels=LABELS,
            multiple=False,
            pool=world.images,
            previous=before,
        )
        assert after.ridge_from == source


def test_a_previous_head_of_other_labels_or_another_encoder_is_harmless() -> None:
    world, wider = World.drawn(6), World.drawn(6, d=64)
    cold = world.head(np.arange(100))
    renamed = replace(wider.head(np.arange(50)), labels=("a", "b", "c", "d"))
    shuffled = replace(world.head(np.arange(50)), labels=("owl", "new", "cat", "dog"))
    for previous in (renamed, shuffled):
        warm = fit_head(
            world.images[:100],
            world.targets[:100],
            labels=LABELS,
            multiple=False,
            pool=world.images,
            previous=previous,
        )
        gap = np.abs(warm.probabilities(world.images) - cold.probabilities(world.images))
        assert gap.max() < 0.05
