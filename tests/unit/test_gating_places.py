"""The gate for boxes and points: a real small network is live, people mark more images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from backend.domain import Control, Kind, Label, Place, Places, Task
from backend.inference.embed import NO_IMAGES
from backend.inference.model import Model, save_model
from backend.label_studio.labeling_config import ReadConfig
from backend.learning.audit import is_audit
from backend.learning.quality_gate import Verdict
from backend.loop.evaluate import metrics
from backend.loop.evaluate.gate import Gate
from backend.loop.fit import Fit
from backend.loop.label_table import label_table
from backend.loop.observe import Observation, Pulse
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.vision.detection.trained_detector import Finder
from tests.support import dashboard_homes
from tests.support.drawings import Drawing, drawing
from tests.support.harness import data_uri
from tests.support.published_models import place_model
from tests.unit.test_gating import NAME, server

__all__ = ["server"]
OTHER = {"disc": "square", "square": "disc"}
POOL = [task for task in range(200) if not is_audit(NAME, task)]
AUDIT = [task for task in range(200) if is_audit(NAME, task)][:12]


@cache
def drawn(task: int) -> Drawing:
    return drawing(1000 + task)


def marked(task: int, kind: Kind, *, wrong: bool) -> Places:
    """What a person marks; who errs takes discs for squares."""
    found = []
    for thing in drawn(task).things:
        x, y = thing.centre
        corners = thing.box if kind == "boxes" else (x, y, x, y)
        found.append(Place(OTHER[thing.label] if wrong else thing.label, *corners))
    return tuple(found)


class Project:
    """One whose live version saw AUDIT and some images, after which others are marked."""

    def __init__(self, home: Path, server: str, weights: Path, kind: Kind) -> None:
        self.control = Control(
            "what", "image", "image", (Label("disc"), Label("square")), kind=kind
        )
        settings = Settings(
            home,
            label_studio_url=server,
            api_key="0" * 40,
            encoder="builtin",
            detector="builtin",
            weights=weights,
        )
        self.resources = Resources(settings)
        self.record = self.resources.projects.register(server, 1)
        self.places = {task: marked(task, kind, wrong=False) for task in [*AUDIT, *POOL[:10]]}
        self.model: Model = place_model(self.control)
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
        card = replace(dashboard_homes.card(number, 10), encoder={}, parent=versions.live())
        versions.save(card, label_table(self.seen()), lambda at: save_model(self.model, at))
        versions.promote(card.version, by="the loop", reason="")

    def seen(self) -> Observation:
        tasks = tuple(
            Task(
                id=task,
                images={"image": data_uri(drawn(task).png())},
                open=False,
                places={"what": places},
            )
            for task, places in self.places.items()
        )
        pulse = Pulse("", 0, 0, "", "", "", "", "")
        return Observation(pulse, NAME, ReadConfig((self.control,), {}), tasks, Counter())

    def verdict(self) -> Verdict:
        """Of a new version that is as good as the live one."""
        seen = self.seen()
        fit = Fit(
            *(self.resources, self.record, seen, None, NO_IMAGES),
            *(lambda *given: None, lambda: False),
        )
        control, live = self.control, fit.before.finders["what"]
        assert isinstance(live, Finder)
        finder = replace(live)
        samples = fit.samples(control)
        sizes = metrics.sizes_of(control, samples, [finder])
        held = [sample for sample in samples if sample.audit]
        new = metrics.judge_finds(finder, control, held, sizes)
        gate = Gate(
            *(self.resources, self.record, seen, fit, Model({}, {"what": finder})),
            *({}, {"what": sizes}, 0),
        )
        return gate.verdict({"what": new})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the network is compiled once."""
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_marks_that_contradict_the_live_finder_hold_a_version_back_and_true_ones_do_not(
    tmp_path: Path, server: str, weights: Path, kind: Kind
) -> None:
    for wrong in (0, 4):
        project = Project(tmp_path / str(wrong), server, weights, kind)
        project.mark(POOL[10:40], wrong)
        verdict = project.verdict()
        assert verdict.promote is not bool(wrong), verdict
    assert "images labeled since v0-0123abcd people deny" in verdict.reason


def test_batches_of_ten_that_each_went_unnoticed_are_counted_together(
    tmp_path: Path, server: str, weights: Path
) -> None:
    project = Project(tmp_path, server, weights, "boxes")
    for number in (1, 2):
        project.mark(POOL[10 * number : 10 * number + 10], wrong=4)
        project.live(number)
    project.mark(POOL[30:40], wrong=4)
    verdict = project.verdict()
    assert not verdict.promote
    assert "since v0-0123abcd" in verdict.reason
