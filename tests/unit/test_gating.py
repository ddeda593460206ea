"""The gate on real rounds without a Label Studio: what people answered goes in, a card comes out.

Images are scikit-learn's digits, seen by the encoder that needs no download; a few lines of web
server stand for Label Studio, which a round asks only whether the project is still the same.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from backend.domain import Control, Label, Task
from backend.label_studio.labeling_config import LabelingConfig
from backend.learning.audit import is_audit
from backend.loop.card import Stopwatch
from backend.loop.observe import Observation, ProjectFingerprint
from backend.loop.train_version import VersionTrainer
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionCard, VersionStore
from tests.support.fake_label_studio import PROJECT_IDENTITY

KINDS = 6
CONTROL = Control("digit", "image", "image", tuple(Label(str(k)) for k in range(KINDS)))


AUDIT = [task for task in range(900) if is_audit(PROJECT_IDENTITY, task)][:52]
POOL = [task for task in range(130) if not is_audit(PROJECT_IDENTITY, task)][:100]


@cache
def drawn() -> dict[int, tuple[str, int]]:
    """By task the address of a digit below KINDS and what it is."""
    digits = load_digits(n_class=KINDS)
    order = np.random.default_rng(0).permutation(len(digits.target))
    return {
        task: (address(digits.images[i]), int(digits.target[i]))
        for task, i in zip([*AUDIT, *POOL], order, strict=False)
    }


def address(pixels: object) -> str:
    file = io.BytesIO()
    whole = np.kron(np.asarray(pixels) * 15, np.ones((4, 4))).astype(np.uint8)
    Image.fromarray(whole).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Project:
    """One project; rounds are made of what is in ``given``."""

    def __init__(self, home: Path, project_server: str, encoder: str = "builtin") -> None:
        self.settings = Settings(
            home=home, label_studio_url=project_server, api_key="0" * 40, encoder=encoder
        )
        self.resources = Resources(self.settings)
        self.record: ProjectRecord = self.resources.projects.register(project_server, 1)
        self.given: dict[int, int] = {}

    def label(self, tasks: list[int], wrong: Callable[[int, int], int] | None = None) -> None:
        """Answer tasks as they are, or as ``wrong`` says: place in the batch, truth → answer."""
        for place, task in enumerate(tasks):
            truth = drawn()[task][1]
            self.given[task] = wrong(place, truth) if wrong else truth

    def seen(self) -> Observation:
        names = frozenset(CONTROL.label_names)
        tasks = tuple(
            Task(
                id=task,
                images={"image": image},
                open=task not in self.given,
                choices={"digit": frozenset({str(self.given[task])})}
                if task in self.given
                else None,
                available_labels={"digit": names},
            )
            for task, (image, _) in drawn().items()
        )
        pulse = ProjectFingerprint("", 0, 0, "", "", "", "", "")
        return Observation(
            pulse, PROJECT_IDENTITY, LabelingConfig((CONTROL,), {}), tasks, Counter()
        )

    def round(self, seen: Observation | None = None) -> VersionCard:
        """The version that a round makes, of what is in ``given`` or of something else."""
        session = ProjectSession(self.resources, self.record)
        maker = VersionTrainer(session, lambda *_: None, lambda: False, Stopwatch())
        name = maker.train_if_needed(seen or self.seen(), force=True, on_hold=False)
        return self.versions.card(name)

    def changed(self, encoder: str = "builtin", home: Path | None = None) -> Project:
        """The same project after a restart with other settings."""
        where = home or self.settings.home
        found = Project(where, self.settings.label_studio_url, encoder)
        found.given = dict(self.given)
        return found

    @property
    def versions(self) -> VersionStore:
        return self.resources.versions(self.record)

    @property
    def live(self) -> str | None:
        return self.versions.live()


def at_random(place: int, truth: int) -> int:
    """Three of ten are wrong."""
    return (truth + 1 + place % (KINDS - 1)) % KINDS if place % 10 in (0, 3, 7) else truth


def swapped(place: int, truth: int) -> int:
    """Who answers takes 0 for 1 and 2 for 3, and the other way round."""
    return {0: 1, 1: 0, 2: 3, 3: 2}.get(truth, truth)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, project_server: str) -> Project:
    """Five rounds of ten true labels each; all audit images are labeled."""
    project = Project(tmp_path_factory.mktemp("home"), project_server)
    project.label(AUDIT)
    for start in range(0, 50, 10):
        project.label(POOL[start : start + 10])
        assert project.round().is_promoted
    return project


@pytest.fixture
def project(grown: Project, tmp_path: Path) -> Project:
    """The same in a home of its own."""
    shutil.copytree(grown.settings.home, tmp_path / "home")
    return grown.changed(home=tmp_path / "home")


def held(card: VersionCard) -> str:
    """Why a version is not live; empty where it is."""
    return "" if card.is_promoted else card.promotion_reason


def test_true_labels_go_live_round_by_round(project: Project) -> None:
    for start in range(50, 100, 10):
        project.label(POOL[start : start + 10])
        assert not held(project.round())


@pytest.mark.parametrize("wrong", [at_random, swapped])
def test_batches_of_ten_with_wrong_labels_are_stopped_although_fifty_audit_images_see_nothing(
    project: Project, wrong: Callable[[int, int], int]
) -> None:
    good = project.live
    for start in (50, 60, 70):
        project.label(POOL[start : start + 10], wrong)
        card = project.round()
        if held(card):
            break
    assert "contradict its predictions" in held(card)
    assert "prelabel label-errors" in held(card)
    assert len([task for task in POOL if task in project.given]) <= 70, "after two batches"
    assert card.promotion is not None
    assert card.promotion.evidence["0"]["images"] >= 50
    assert project.live in (good, card.parent)


def test_what_a_person_makes_live_is_no_longer_held_against_later_labels(project: Project) -> None:
    project.label(POOL[50:60], swapped)
    card = project.round()
    assert held(card)
    project.versions.promote(card.version, by="a person", reason="they are right")
    project.label(POOL[60:70])
    assert not held(project.round())


def test_mistakes_that_somebody_corrects_do_not_look_like_mistakes(project: Project) -> None:
    project.label(POOL[50:62], at_random)
    card = project.round()
    project.versions.promote(card.version, by="a person", reason="not noticed")
    project.label(POOL[50:62])
    assert not held(project.round())


def test_losses_that_each_went_unnoticed_do_not_add_up(project: Project) -> None:
    best = project.live
    for start in range(50, 90, 10):
        project.label(POOL[start : start + 10], swapped)
        project.versions.promote(project.round().version, by="the loop", reason="not noticed")
    project.label(POOL[90:100])
    assert f"version {best}, which was live before," in held(project.round())


def test_the_live_version_is_judged_through_the_encoder_that_it_was_made_with(
    project: Project,
    tiny_yolo: Path,
) -> None:
    before = project.live
    right = project.versions.live_card().audit  # type: ignore[union-attr]
    other = project.changed(encoder=str(tiny_yolo))
    card = other.round()
    told = f"the live version {before} {round((right.value or 0) * right.n)}"
    assert told in card.promotion_reason
    assert card.outlook is None or card.outlook.agreement is None
    other.label(POOL[50:60])
    promotion = other.round().promotion
    assert promotion is not None
    assert promotion.evidence["0"]["images"] == len(AUDIT), "and so on"


def test_a_version_whose_encoder_is_gone_is_compared_with_nothing_and_its_card_says_so(
    tmp_path: Path,
    project_server: str,
    tiny_yolo: Path,
) -> None:
    weights = tmp_path / "mine-cls.pt"
    shutil.copy(tiny_yolo, weights)
    first = Project(tmp_path / "home", project_server, str(weights))
    first.label([*AUDIT[:4], *POOL[:10]])
    old = first.round()
    weights.unlink()
    card = first.changed(encoder="builtin").round()
    assert card.is_promoted
    assert f"Not compared with the live version {old.version}" in card.promotion_reason
    assert "mine-cls.pt" in card.promotion_reason


def without_labels(seen: Observation) -> Observation:
    """Somebody deleted all annotations."""
    return replace(seen, tasks=tuple(replace(t, open=True, choices=None) for t in seen.tasks))


def with_other_tasks(seen: Observation) -> Observation:
    """Somebody deleted all tasks and imported new ones."""
    return replace(seen, tasks=without_labels(seen).tasks[-30:])


def without_their_images(seen: Observation) -> Observation:
    """No labeled image can be read any more; and somebody deleted one annotation."""
    gone = {"image": "data:image/png;base64,AAAA"}
    one = seen.labeled[0]
    tasks = (replace(t, images=gone) if t.labeled else t for t in seen.tasks if t is not one)
    return replace(seen, tasks=(*tasks, replace(one, open=True, choices=None)))


@pytest.mark.parametrize("lost", [without_labels, with_other_tasks, without_their_images])
@pytest.mark.parametrize("encoder", ["", "another"])
def test_a_control_that_loses_all_its_labels_has_a_new_version_all_the_same(
    project: Project,
    tiny_yolo: Path,
    lost: Callable[[Observation], Observation],
    encoder: str,
) -> None:
    """Nothing speaks for or against it: the live version has no image to be asked about."""
    now = project.changed(encoder=str(tiny_yolo)) if encoder else project
    card = now.round(lost(project.seen()))
    assert not held(card)
    assert "No audit image is labeled yet" in card.promotion_reason


def test_the_forecast_is_of_the_figure_that_is_shown(tmp_path: Path, project_server: str) -> None:
    """Few audit images give a figure, and cross-validation gives another one."""
    project = Project(tmp_path / "home", project_server)
    sources = []
    for audited, start in ((4, 0), (12, 20), (12, 30), (12, 40)):
        project.label(AUDIT[:audited])
        project.label(POOL[: start + 20])
        card = project.round()
        assert card.estimate is not None
        assert card.outlook is not None
        assert card.outlook.is_audited == card.audit.is_conclusive
        sources.append(card.outlook.source)
    assert sources == ["cross-validation", *["audit set"] * 3]
    assert card.outlook is not None
    assert card.audit.value is not None
    assert f"{card.audit.value:.0%}" in card.outlook.sentence or "goal" in card.outlook.sentence
    assert card.outlook.curve[0].low <= card.audit.value <= card.outlook.curve[0].high
