"""What is accepted is what was judged; what people find of it suspends accepting for good."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.card_records import AutoAcceptSection, AutoAcceptStatus, ModelSource, SplitSizes
from backend.domain import (
    ChoicePrediction,
    Control,
    ImageSize,
    Label,
    Prediction,
    Region,
    RegionPrediction,
    Task,
)
from backend.estimate import IntervalEstimate
from backend.inference.embed import EMPTY_EMBEDDINGS
from backend.inference.images import ProjectImages
from backend.inference.model import Model
from backend.inference.predict import infer_tasks
from backend.json_records import to_json
from backend.label_studio.image_fetcher import TaskImageFetcher
from backend.label_studio.labeling_config import LabelingConfig
from backend.label_studio.task_results import full_result
from backend.learning.audit import is_audit
from backend.learning.auto_accept import is_held_for_review
from backend.learning.thresholds import UNREACHABLE_THRESHOLD
from backend.loop.observe import Observation, ProjectFingerprint
from backend.loop.publish import auto_accept
from backend.store.acceptance import AcceptanceState, AcceptanceStore
from backend.store.image_copies import ImageCopies
from backend.store.versions import VersionCard
from backend.vision.detection.detections import Detections
from backend.vision.detection.trained_detector import ClassMapping
from backend.vision.encoders.embedding_cache import EmbeddingCache
from backend.web_fetcher import FetchLimits

COLOUR = Control("colour", "image", "image", (Label("red"), Label("blue")), accept_error=0.05)
SIZE = ImageSize(10, 10)
MODEL = Model({}, controls=(COLOUR,))
NAME = "1.1"
POOL = [task for task in range(2000) if not is_audit(NAME, task)]
PEOPLE = [task for task in POOL if is_held_for_review(NAME, task)]
OTHERS = [task for task in POOL if not is_held_for_review(NAME, task)]


def card(number: int, audit: int, level: float | None = 0.8) -> VersionCard:
    section = AutoAcceptSection(0.05, level, "It holds.", audit=audit, chance=0.015)
    return VersionCard(
        version=f"v{number}-x",
        identity="x",
        number=number,
        parent=None,
        created="",
        labels=SplitSizes(),
        audit=IntervalEstimate(),
        controls={},
        encoder=ModelSource(),
        seconds={},
        seed=0,
        accepting=section,
    )


def described(version: VersionCard, state: AcceptanceState) -> AutoAcceptStatus:
    status = state.describe(version.accepting)
    assert status is not None
    return status


def observed(*tasks: Task, control: Control = COLOUR) -> Observation:
    pulse = ProjectFingerprint("", 0, 0, "", "", "", "", "")
    return Observation(pulse, NAME, LabelingConfig((control,), {}), tasks, Counter())


def opened(numbers: Sequence[int], captured: str = "") -> list[Task]:
    return [Task(n, {"image": f"{n}.png"}, capture_reason=captured) for n in numbers]


def labeled(task: int, colour: str) -> Task:
    answers = {"colour": frozenset({colour})}
    return Task(task, {"image": f"{task}.png"}, open=False, choices=answers)


def red(tasks: Sequence[int]) -> list[Prediction]:
    return [Prediction(n, (ChoicePrediction("colour", {"red": 0.85}, SIZE),), 0.85) for n in tasks]


def chosen(live: VersionCard, state: AcceptanceState, seen: Observation, **more: Any) -> list[int]:
    sure = {task.id: 0.85 for task in seen.tasks}
    given = {"model": MODEL, "error_bound": 0.05, **more}
    return [t.id for t in auto_accept.acceptable_tasks(live, state, seen, sure, **given)]


def asked(count: int) -> AcceptanceState:
    """So many answers that would have been accepted and went to people."""
    seen = observed(*opened(PEOPLE[:count]))
    state, give = auto_accept.plan_acceptance(AcceptanceState(), seen, "v1-x", red(PEOPLE[:count]))
    assert give == []
    return state


def test_what_is_accepted_of_choices_has_no_threshold() -> None:
    (answer,) = red([1])
    control = replace(COLOUR, threshold=0.95)
    (region,) = full_result(answer, {"colour": control})
    assert region["value"]["choices"] == ["red"]


def test_an_answer_that_chooses_nothing_is_never_given() -> None:
    tasks = OTHERS[:2]
    blank = Prediction(tasks[1], (ChoicePrediction("colour", {}, SIZE),), 0.9)
    seen = observed(*opened(tasks))
    state, give = auto_accept.plan_acceptance(
        AcceptanceState(), seen, "v1-x", [*red(tasks[:1]), blank]
    )
    assert [one.task_id for one in give] == tasks[:1]
    assert list(state.given) == tasks[:1]


class Dark:
    """Finds the dark part of an image, with the same confidence everywhere."""

    def __init__(self) -> None:
        self.class_mapping = ClassMapping(False, ("thing",), {0: 0}, {}, 64, shown=0.25)

    def detect(self, images: Sequence[Image.Image], least: float) -> list[Detections]:
        return [self._in(np.asarray(image.convert("L"))) for image in images]

    def save(self, folder: Path) -> None:
        """It has nothing to write."""

    def _in(self, grey: Any) -> Detections:
        rows, columns = np.nonzero(grey < 128)
        high, wide = grey.shape
        box = [columns.min() / wide, rows.min() / high, columns.max() / wide, rows.max() / high]
        one = np.array([0.9], dtype=np.float32)
        return Detections(np.array([box], dtype=np.float32), one, np.array([0]))


def square() -> str:
    """The address of an image of a black square."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (16, 16, 48, 48))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def pictures(folder: Path) -> ProjectImages:
    return ProjectImages(
        "server",
        TaskImageFetcher(
            "http://127.0.0.1:1", dict, FetchLimits(max_bytes=10**6, allowed_hosts=frozenset())
        ),
        EmbeddingCache(folder / "facts.sqlite"),
        ImageCopies(folder / "files"),
        10**6,
    )


def test_nobody_is_sure_of_a_task_with_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    """Accepted, what was found in one image would say that there is nothing in the other."""
    controls = [
        Control(f"on {key}", key, key, (Label("thing"),), "boxes") for key in ("left", "right")
    ]
    whole = Task(1, {"left": square(), "right": square()})
    half = Task(2, {"left": square(), "right": "data:image/png;base64,AAAA"})
    model = Model({}, {control.name: Dark() for control in controls})
    result = infer_tasks(model, controls, [whole, half], EMPTY_EMBEDDINGS, pictures(tmp_path))
    assert result.confidences() == {1: np.float32(0.9)}


def test_a_box_that_is_not_shown_is_accepted_with_the_rest_as_it_was_judged(tmp_path: Path) -> None:
    """Accepted as empty, an image with a find of 0.9 would be what nobody ever judged."""
    control = Control("box", "image", "image", (Label("thing"),), "boxes", precision=0.95)
    task = Task(1, {"image": square()})
    model = Model({}, {"box": Dark()}, {"box": {"thing": UNREACHABLE_THRESHOLD}})
    result = infer_tasks(model, [control], [task], EMPTY_EMBEDDINGS, pictures(tmp_path))
    sure = result.confidences()
    assert sure == {1: np.float32(0.9)}
    shown, answer = (
        result.predictions([task], sure, unfiltered=whole)[0] for whole in (False, True)
    )
    assert [len(found.regions) for found in shown.regions] == [0]
    (region,) = full_result(answer, {"box": control})
    assert region["value"]["rectanglelabels"] == ["thing"]


def test_only_what_the_audit_set_is_a_fair_sample_of_is_accepted() -> None:
    live, audit = card(1, audit=100), next(t for t in range(100) if is_audit(NAME, t))
    hard, fair, plain = OTHERS[:3]
    both = labeled(OTHERS[3], "red")
    seen = observed(
        *opened([hard], "uncertain"),
        *opened([fair], "random"),
        *opened([plain, audit]),
        replace(both, open=True),
    )
    assert chosen(live, AcceptanceState(), seen) == [fair, plain]


def test_nothing_is_accepted_by_what_was_judged_for_another_config_or_bound() -> None:
    live, tasks = card(1, audit=100), opened(OTHERS[:2])
    assert chosen(live, AcceptanceState(), observed(*tasks)) == OTHERS[:2]
    smart = replace(COLOUR, smart=True)
    assert chosen(live, AcceptanceState(), observed(*tasks, control=smart)) == OTHERS[:2]
    wider = replace(COLOUR, labels=(*COLOUR.labels, Label("green")))
    assert chosen(live, AcceptanceState(), observed(*tasks, control=wider)) == []
    assert chosen(live, AcceptanceState(), observed(*tasks), error_bound=0.02) == []


def test_a_check_is_counted_once_however_often_a_round_looks() -> None:
    state = asked(5)
    seen = observed(
        *(labeled(task, "red") for task in PEOPLE[:4]), labeled(PEOPLE[4], "blue"), *opened(OTHERS)
    )
    for _ in range(4):
        state = auto_accept.record_reviews(state, seen, MODEL)
        state = auto_accept.suspend_if_broken(state, 0.05, [card(1, 100)])
        state, _ = auto_accept.plan_acceptance(state, seen, "v2-x", [])
        assert state.check_results == [True] * 4 + [False]
    assert not state.suspensions, "one of five says little of 5 %"


def test_a_suspension_outlives_held_back_versions_and_roll_backs(tmp_path: Path) -> None:
    """Whatever is live: only more audit labels than any version saw lift it."""
    state = asked(10)
    wrong = [labeled(task, "blue" if n < 5 else "red") for n, task in enumerate(PEOPLE[:10])]
    seen = observed(*wrong, *opened(OTHERS[:3]))
    live, held = card(1, audit=90), card(2, audit=100)
    assert chosen(live, state, seen) == OTHERS[:3]
    state = auto_accept.record_reviews(state, seen, MODEL)
    state = auto_accept.suspend_if_broken(state, 0.05, [live, held])
    kept = AcceptanceStore(tmp_path)
    kept.write(state)
    for _ in range(3):  # rounds in which the new version is held back again
        state = auto_accept.suspend_if_broken(
            auto_accept.record_reviews(kept.read(), seen, MODEL), 0.05, [live]
        )
        kept.write(state)
        assert len(state.suspensions) == 1
        for old in (card(0, audit=85), live, held, card(3, audit=149)):
            assert chosen(old, state, seen) == []
            assert described(old, state).suspended
    assert "5 of 10" in described(live, state).reason
    proven = card(4, audit=150)
    assert chosen(proven, state, seen) == OTHERS[:3]
    assert proven.accepting is not None
    assert to_json(described(proven, state)) | {"checked": 0} == {
        **to_json(proven.accepting),
        "suspended": False,
        "checked": 0,
    }
    assert state.check_results == [], "what led to it does not lead to the next one"


def test_a_version_without_a_level_accepts_nothing_and_keeps_the_checks() -> None:
    state = auto_accept.record_reviews(asked(2), observed(labeled(PEOPLE[0], "blue")), MODEL)
    assert chosen(card(2, 120, level=None), state, observed(*opened(OTHERS[:1]))) == []
    assert state.check_results == [False]


def test_a_person_who_corrects_an_accepted_answer_has_checked_it() -> None:
    seen = observed(*opened(OTHERS[:2]))
    state, give = auto_accept.plan_acceptance(AcceptanceState(), seen, "v1-x", red(OTHERS[:2]))
    assert len(give) == 2
    done = [Task(OTHERS[0], {}, open=False, auto_accepted=True), labeled(OTHERS[1], "blue")]
    assert auto_accept.record_reviews(state, observed(*done), MODEL).check_results == [False]


def test_what_goes_to_people_is_judged_by_the_answer_that_would_have_been_accepted() -> None:
    state = asked(1)
    later = Prediction(PEOPLE[0], (ChoicePrediction("colour", {"blue": 0.9}, SIZE),), 0.9)
    state, _ = auto_accept.plan_acceptance(state, observed(*opened(PEOPLE[:1])), "v2-x", [later])
    assert state.given[PEOPLE[0]].version == "v1-x"
    checks = auto_accept.spot_checks(state, observed(*opened(PEOPLE[:3])))
    assert checks.pending == {PEOPLE[0]}


def test_boxes_are_checked_as_the_audit_set_is_judged() -> None:
    control = Control("box", "image", "image", (Label("thing"),), "boxes")
    there = Region("thing", 0.2, 0.2, 0.6, 0.6)
    found = RegionPrediction("box", (there,), (0.9,), SIZE)
    seen = observed(*opened(PEOPLE[:3]), control=control)
    answers = [Prediction(task, (), 0.9, (found,)) for task in PEOPLE[:3]]
    state, _ = auto_accept.plan_acceptance(AcceptanceState(), seen, "v1-x", answers)
    near = replace(there, x0=0.22)
    places = [(near,), (near, Region("thing", 0.7, 0.7, 0.9, 0.9)), ()]
    done = [
        Task(task, {}, open=False, regions={"box": given})
        for task, given in zip(PEOPLE[:3], places, strict=True)
    ]
    state = auto_accept.record_reviews(state, observed(*done, control=control), MODEL)
    assert state.check_results == [True, False, False]


def test_the_state_is_kept_as_it_is(tmp_path: Path) -> None:
    state = auto_accept.record_reviews(asked(3), observed(labeled(PEOPLE[1], "red")), MODEL)
    kept = AcceptanceStore(tmp_path)
    assert kept.read() == AcceptanceState()
    kept.write(state)
    assert kept.read() == state
