"""The gate for boxes and points: a real small network is live, people mark more images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from backend.card_records import ModelSource
from backend.domain import Control, ControlKind, Label, Region, RegionPrediction, Regions, Task
from backend.inference.detections import published_threshold
from backend.inference.embed import EMPTY_EMBEDDINGS
from backend.inference.model import Model, save_model
from backend.inference.predict import infer_tasks
from backend.label_studio.labeling_config import LabelingConfig
from backend.learning.audit import is_audit
from backend.learning.version_comparison import GateVerdict
from backend.loop.evaluate import metrics
from backend.loop.evaluate.assess import Assessor
from backend.loop.evaluate.gate import QualityGate
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation, ProjectFingerprint, label_table
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.training.quick_detector import QuickTrainingJob, train_quick_detector
from backend.vision.detection.trained_detector import TrainedDetector
from tests.support import dashboard_homes
from tests.support.drawings import Drawing, make_drawing
from tests.support.fake_label_studio import PROJECT_IDENTITY
from tests.support.harness import make_data_uri
from tests.support.published_models import train_detector_model

OTHER = {"disc": "square", "square": "disc"}
POOL = [task for task in range(200) if not is_audit(PROJECT_IDENTITY, task)]
AUDIT = [task for task in range(200) if is_audit(PROJECT_IDENTITY, task)][:12]


@cache
def drawn(task: int) -> Drawing:
    return make_drawing(1000 + task)


def marked(task: int, kind: ControlKind, *, wrong: bool) -> Regions:
    """What a person marks; who errs takes discs for squares."""
    found = []
    for thing in drawn(task).objects:
        x, y = thing.center
        corners = thing.box if kind == "boxes" else (x, y, x, y)
        found.append(Region(OTHER[thing.label] if wrong else thing.label, *corners))
    return tuple(found)


class Project:
    """One whose live version saw AUDIT and some images, after which others are marked."""

    def __init__(self, home: Path, project_server: str, weights: Path, kind: ControlKind) -> None:
        self.control = Control(
            "what", "image", "image", (Label("disc"), Label("square")), kind=kind
        )
        settings = Settings(
            home=home,
            label_studio_url=project_server,
            api_key="0" * 40,
            encoder="builtin",
            detector="builtin",
            weights_dir=weights,
        )
        self.resources = Resources(settings)
        self.record = self.resources.projects.register(project_server, 1)
        self.places = {task: marked(task, kind, wrong=False) for task in [*AUDIT, *POOL[:10]]}
        self.model: Model = train_detector_model(self.control)
        self.live(0)

    def mark(self, tasks: list[int], wrong: int = 0) -> None:
        """So many of ten are wrong."""
        self.places |= {
            task: marked(task, self.control.kind, wrong=place % 10 < wrong)
            for place, task in enumerate(tasks)
        }

    def live(self, number: int) -> None:
        """What is marked by now has been learned."""
        versions = self.resources.versions(self.record)
        card = replace(
            dashboard_homes.make_card(number, 10), encoder=ModelSource(), parent=versions.live()
        )
        versions.save(card, label_table(self.seen()), lambda at: save_model(self.model, at))
        versions.promote(card.version, by="the loop", reason="")

    def seen(self) -> Observation:
        tasks = tuple(
            Task(
                id=task,
                images={"image": make_data_uri(drawn(task).to_png())},
                open=False,
                regions={"what": places},
            )
            for task, places in self.places.items()
        )
        pulse = ProjectFingerprint("", 0, 0, "", "", "", "", "")
        return Observation(
            pulse, PROJECT_IDENTITY, LabelingConfig((self.control,), {}), tasks, Counter()
        )

    def verdict(self) -> GateVerdict:
        """Of a new version that is as good as the live one."""
        seen = self.seen()
        session = ProjectSession(self.resources, self.record)
        fit = ModelTrainer(session, seen, None, EMPTY_EMBEDDINGS)
        control, live = self.control, fit.live_model.detectors["what"]
        assert isinstance(live, TrainedDetector)
        finder = replace(live)
        samples = fit.samples(control)
        sizes = metrics.object_sizes(control, samples, [finder])
        held = [sample for sample in samples if sample.is_audit]
        new = metrics.evaluate_regions(finder, control, held, sizes)
        gate = QualityGate(session, seen, fit, Model({}, {"what": finder}), {}, {"what": sizes})
        return gate.decide({"what": new})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the network is compiled once."""
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_marks_that_contradict_the_live_finder_hold_a_version_back_and_true_ones_do_not(
    tmp_path: Path, project_server: str, weights: Path, kind: ControlKind
) -> None:
    for wrong in (0, 4):
        project = Project(tmp_path / str(wrong), project_server, weights, kind)
        project.mark(POOL[10:40], wrong)
        verdict = project.verdict()
        assert verdict.is_passed is not bool(wrong), verdict
    assert "images labeled since v0-0123abcd people reject" in verdict.reason


def test_batches_of_ten_that_each_went_unnoticed_are_counted_together(
    tmp_path: Path, project_server: str, weights: Path
) -> None:
    project = Project(tmp_path, project_server, weights, "boxes")
    for number in (1, 2):
        project.mark(POOL[10 * number : 10 * number + 10], wrong=4)
        project.live(number)
    project.mark(POOL[30:40], wrong=4)
    verdict = project.verdict()
    assert not verdict.is_passed
    assert "since v0-0123abcd" in verdict.reason


def test_a_quick_version_accepts_nothing_and_spends_no_test(
    tmp_path: Path, project_server: str, weights: Path
) -> None:
    """The full version on the same labels needs the significance level."""
    project = Project(tmp_path, project_server, weights, "boxes")
    project.resources.settings = project.resources.settings.model_copy(
        update={"accept_error": 0.05}
    )
    session, seen = ProjectSession(project.resources, project.record), project.seen()
    fit = ModelTrainer(session, seen, None, EMPTY_EMBEDDINGS)
    live = fit.live_model.detectors["what"]
    assert isinstance(live, TrainedDetector)
    quick = train_quick_detector(
        QuickTrainingJob(
            control=project.control,
            samples=fit.samples(project.control),
            network=live.network,
            network_tasks=frozenset(),
            rival=None,
            input_size=160,
            seed=0,
            load_feature_runner=project.resources.load_feature_runner,
            report=lambda done, total: None,
            cancelled=lambda: False,
        )
    )
    assert quick is not None
    sections = [
        Assessor(session, seen, fit, Model({}, {"what": detector})).assess().accepting
        for detector in (quick, live)
    ]
    quick_section, full_section = sections
    assert quick_section is not None
    assert full_section is not None
    assert (quick_section.level, quick_section.chance) == (None, None)
    assert "full training" in quick_section.reason
    assert full_section.audit == len(AUDIT)


@pytest.mark.parametrize(("audited", "minimum"), [(9, 0.25), (12, 0.03)])
def test_unlikely_objects_are_suggested_only_once_the_figures_mean_something(
    tmp_path: Path, project_server: str, weights: Path, audited: int, minimum: float
) -> None:
    project = Project(tmp_path, project_server, weights, "boxes")
    for task in AUDIT[audited:]:
        del project.places[task]
    session, seen = ProjectSession(project.resources, project.record), project.seen()
    fit = ModelTrainer(session, seen, None, EMPTY_EMBEDDINGS)
    live = fit.live_model.detectors["what"]
    assert isinstance(live, TrainedDetector)
    eager = replace(live, class_mapping=replace(live.class_mapping, shown=0.03))
    model = Model({}, {"what": eager})
    assessment = Assessor(session, seen, fit, model).assess()
    assert assessment.controls["what"].shown == minimum
    model = replace(model, thresholds=assessment.thresholds)
    assert published_threshold(model, project.control) == minimum
    tasks = seen.tasks[:6]
    result = infer_tasks(model, [project.control], tasks, EMPTY_EMBEDDINGS, session.images)

    def lowest(regions: Mapping[int, tuple[RegionPrediction, ...]]) -> float:
        return min(value for rows in regions.values() for row in rows for value in row.confidence)

    assert minimum <= lowest(result.regions)
    assert lowest(result.unfiltered) < 0.25, "it counts in the queue and in the figures"
    assert (lowest(result.regions) < 0.25) == (minimum < 0.25)
