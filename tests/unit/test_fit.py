"""When a finder is made anew, and when the live one goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backend.card_records import ControlCard, ModelSource
from backend.domain import Region, Task
from backend.errors import LabelStudioError
from backend.inference.embed import EMPTY_EMBEDDINGS
from backend.inference.model import Model, save_model
from backend.label_studio.labeling_config import read_config
from backend.loop.card import Stopwatch
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation, ProjectFingerprint, label_table
from backend.loop.train_version import VersionTrainer
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.projects import ProjectRecord
from tests.support.dashboard_homes import make_card

CONFIG = """
<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="disc"/></RectangleLabels>
<KeyPointLabels name="dot" toName="image"><Label value="disc"/></KeyPointLabels></View>
"""
PULSE = ProjectFingerprint("", 2, 2, "", "", "", "", "")


def marked(number: int, x: float, control: str = "box") -> Task:
    places = {control: (Region("disc", x, 0.1, x + 0.1, 0.2),)}
    return Task(number, {"image": f"{number}.png"}, regions=places)


def observed(tasks: Sequence[Task], config: str = CONFIG) -> Observation:
    return Observation(PULSE, "1.0", read_config(config), tuple(tasks), Counter())


TASKS = [marked(1, 0.1), marked(2, 0.3)]


class Home:
    """A project whose live version saw ``TASKS``."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder, detector="builtin")
        self.record = ProjectRecord("1", "http://label.example", 1)
        resources = Resources(self.settings)
        fit = self.fit(observed(TASKS))
        controls = {
            c.name: ControlCard(made_from=fit.detector_dependencies(c))
            for c in observed(TASKS).config.controls
        }
        made = replace(
            make_card(0, 2),
            controls=controls,
            detector=ModelSource("builtin", resources.base_weights.id),
        )
        versions = resources.versions(self.record)
        versions.save(made, label_table(observed(TASKS)), lambda to: save_model(Model({}), to))
        versions.promote(made.version, by="the loop", reason="The first.")

    def fit(self, seen: Observation) -> ModelTrainer:
        session = ProjectSession(Resources(self.settings), self.record)
        return ModelTrainer(session, seen, None, EMPTY_EMBEDDINGS)

    def unchanged(self, seen: Observation, control: str = "box") -> bool:
        return self.fit(seen).is_unchanged(seen.controls[control])

    def identity(self, seen: Observation) -> str:
        session = ProjectSession(Resources(self.settings), self.record)
        maker = VersionTrainer(session, lambda *given: None, lambda: False, Stopwatch())
        return maker._version_identity(seen, label_table(seen), None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_same_labels_and_settings_keep_the_live_finder(home: Home) -> None:
    assert home.unchanged(observed(TASKS))
    assert home.unchanged(observed([*TASKS, Task(3, {"image": "3.png"})])), "nobody marked it"


def test_another_label_makes_the_finder_of_its_control_anew(home: Home) -> None:
    for tasks in ([marked(1, 0.2), TASKS[1]], TASKS[:1], [*TASKS, marked(3, 0.1)]):
        assert not home.unchanged(observed(tasks))
        assert home.unchanged(observed(tasks), "dot"), "that is another control's"


def test_a_quick_version_keeps_the_other_finders_with_the_labels_they_learned(home: Home) -> None:
    """Only the quick ones learned the new labels, so the full training has to follow for all."""
    seen = observed([*TASKS, marked(3, 0.1)])
    versions = Resources(home.settings).versions(home.record)
    first = versions.live_card()
    assert first is not None
    quick = replace(first, version="v1-quick", number=1, parent=first.version, stage="quick")
    versions.save(quick, label_table(seen), lambda to: save_model(Model({}), to))
    versions.promote(quick.version, by="the loop", reason="")
    assert not home.unchanged(seen)
    assert home.unchanged(seen, "dot")


def test_without_the_full_version_under_a_quick_one_everything_is_trained(home: Home) -> None:
    versions = Resources(home.settings).versions(home.record)
    first = versions.live_card()
    assert first is not None
    quick = replace(first, version="v1-quick", number=1, parent=first.version, stage="quick")
    versions.save(quick, label_table(observed(TASKS)), lambda to: save_model(Model({}), to))
    versions.promote(quick.version, by="the loop", reason="")
    assert home.fit(observed(TASKS))._network_tasks() == frozenset({1, 2})
    (versions.path(first.version) / "labels.json").write_text("damaged")
    assert home.fit(observed(TASKS))._network_tasks() is None
    shutil.rmtree(versions.path(first.version))
    assert home.fit(observed(TASKS))._network_tasks() is None
    assert not home.unchanged(observed(TASKS))


def test_another_config_makes_it_anew(home: Home) -> None:
    for config in (
        CONFIG.replace('"disc"/></Rect', '"disc" predicted_values="coin"/></Rect'),
        CONFIG.replace('"disc"/></Rect', '"disc"/><Label value="ring"/></Rect'),
    ):
        assert not home.unchanged(observed(TASKS, config))


def test_what_it_is_made_with_makes_it_anew_and_is_noticed(home: Home) -> None:
    """Another size of the input, another base, or a network that takes prompts."""
    before = home.settings
    known = home.identity(observed(TASKS))
    weights = before.home / "weights"
    weights.mkdir()
    for settings in (
        before.model_copy(update={"detector_size": 320}),
        before.model_copy(update={"detector": "yolo26n.yaml"}),
    ):
        home.settings = settings
        assert not home.unchanged(observed(TASKS))
        assert home.identity(observed(TASKS)) != known
    home.settings = before
    for name, size in (("yoloe-26s-seg.pt", 5), ("mobileclip2_b.ts", 7), ("mobileclip2_b.ts", 8)):
        (weights / name).write_bytes(bytes(size))
        assert not home.unchanged(observed(TASKS))
        assert home.identity(observed(TASKS)) != known
        known = home.identity(observed(TASKS))


@pytest.mark.parametrize(
    ("seconds", "new", "force", "waits"),
    [
        (90.0, 1, False, True),  # of 20: under a tenth, for minutes of training
        (90.0, 2, False, False),
        (90.0, 1, True, False),  # Start Training, or a pause of minutes
        (9.0, 1, False, False),
    ],
)
def test_few_new_boxes_wait_where_a_training_takes_minutes(
    tmp_path: Path, seconds: float, new: int, force: bool, waits: bool
) -> None:
    settings = Settings(home=tmp_path, detector="builtin", label_studio_url="http://127.0.0.1:9")
    resources, record = Resources(settings), ProjectRecord("1", "http://127.0.0.1:9", 1)
    tasks = [marked(number, 0.1) for number in range(20 + new)]
    versions = resources.versions(record)
    card = replace(
        make_card(0, 20),
        controls={name: ControlCard(examples={"disc": 20}) for name in ("box", "dot")},
        detector=ModelSource("builtin", resources.base_weights.id),
        encoder=ModelSource(),
        seconds={"train": seconds, "total": seconds + 1},
    )
    versions.save(card, label_table(observed(tasks[:20])), lambda to: save_model(Model({}), to))
    versions.promote(card.version, by="the loop", reason="The first.")
    session = ProjectSession(resources, record)
    trainer = VersionTrainer(session, lambda *given: None, lambda: False, Stopwatch())
    seen = observed(tasks)
    if waits:
        assert trainer.train_if_needed(seen, force=force, on_hold=False, is_pause=True) == ""
    else:  # it trains, for which it fetches the images
        with pytest.raises(LabelStudioError):
            trainer.train_if_needed(seen, force=force, on_hold=False, is_pause=True)
    assert trainer.awaits_pause == waits
