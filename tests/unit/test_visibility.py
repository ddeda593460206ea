"""Controls with ``visibleWhen`` are predicted only where Label Studio shows them."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from backend.domain import (
    ChoicePrediction,
    Control,
    ImageSize,
    Label,
    Prediction,
    Task,
    VisibilityCondition,
)
from backend.inference.embed import EmbeddingResult
from backend.inference.model import Model
from backend.inference.predict import infer
from backend.inference.visibility import visible_controls, without_hidden
from backend.label_studio.labeling_config import LabelingConfig, read_config
from backend.vision.heads.head import Head

STATE = '<Choices name="state" toName="image"><Choice value="Ill" alias="ill"/><Choice value="ok"/>'
TWO = '<Choice value="a"/><Choice value="b"/>'
ILL = VisibilityCondition("state", ("ill",))
SIZE = ImageSize(4, 4)


def parse(body: str) -> LabelingConfig:
    return read_config(f'<View><Image name="image" value="$image"/>{STATE}</Choices>{body}</View>')


def choices(name: str, attributes: str = "") -> str:
    return f'<Choices name="{name}" toName="image" {attributes}>{TWO}</Choices>'


SELECTED = 'visibleWhen="choice-selected" whenTagName="state"'


@pytest.mark.parametrize(
    ("attributes", "condition"),
    [
        ("", None),
        (SELECTED, VisibilityCondition("state")),
        (f'{SELECTED} whenChoiceValue="Ill"', ILL),
        (f'{SELECTED.lower()} whenchoicevalue="ill,ok"', replace(ILL, labels=("ill", "ok"))),
        (f'{SELECTED} whenChoiceValue="no such"', replace(ILL, labels=("no such",))),
        ('visibleWhen="choice-selected" whenChoiceValue="a"', VisibilityCondition()),
        ('whenChoiceValue="a"', VisibilityCondition(labels=("a",))),
        (f'{SELECTED.replace("selected", "unselected")} whenChoiceValue="Ill"',
         replace(ILL, negated=True)),
        ('visibleWhen="no-region-selected"', None),
    ],
)  # fmt: skip
def test_a_condition_is_read_as_label_studio_does(
    attributes: str, condition: VisibilityCondition | None
) -> None:
    expected = (condition,) if condition else ()
    of_control, of_view = (
        parse(choices("kind", attributes)),
        parse(f"<View {attributes}><View>{choices('kind')}</View></View>"),
    )
    assert of_control.controls[1].conditions == of_view.controls[1].conditions == expected


def test_conditions_of_all_tags_around_a_control_count() -> None:
    inner = choices("kind", 'whenChoiceValue="a"')
    config = parse(f"<View {SELECTED}>{inner}</View>")
    expected = (VisibilityCondition(labels=("a",)), VisibilityCondition("state"))
    assert config.controls[1].conditions == expected
    boxes = '<RectangleLabels name="box" toName="image"><Label value="x"/></RectangleLabels>'
    assert parse(f"<View {SELECTED}>{boxes}</View>").controls[1].conditions


def test_what_is_never_shown_with_predictions_is_not_served() -> None:
    rating = '<Rating name="stars" toName="image"/>'
    after_stars = 'visibleWhen="choice-selected" whenTagName="stars"'
    after_kind = 'visibleWhen="choice-selected" whenTagName="kind"'
    config = parse(rating + choices("kind", after_stars) + choices("part", after_kind))
    assert [control.name for control in config.controls] == ["state"]
    assert "only after an answer to stars, which Prelabel does not" in config.unserved["kind"]
    assert "only after an answer to kind" in config.unserved["part"]
    itself = parse(choices("kind", after_kind))
    assert "kind" in itself.unserved
    until_stars = after_stars.replace("selected", "unselected")
    assert not parse(rating + choices("kind", until_stars)).unserved.get("kind")
    region = parse(f'<View visibleWhen="region-selected">{choices("kind")}</View>')
    assert "applies to each region" in region.unserved["kind"]


def control(name: str, *conditions: VisibilityCondition, labels: str = "ab") -> Control:
    return Control(name, "image", "image", tuple(map(Label, labels)), conditions=conditions)


@pytest.mark.parametrize(
    ("conditions", "answers", "visible"),
    [
        ({"y": ["x"]}, {"x": ["a"]}, "xy"),
        ({"y": ["x"]}, {"x": []}, "x"),
        ({"y": ["x"]}, {}, "x"),
        ({"y": ["x=b"]}, {"x": ["a"]}, "x"),
        ({"y": ["x=b"]}, {"x": ["a", "b"]}, "xy"),
        ({"y": ["!x=b"]}, {"x": ["a"]}, "xy"),
        ({"y": ["!x=b"]}, {"x": ["b"]}, "x"),
        ({"y": ["x"], "z": ["y"]}, {"x": ["a"], "y": ["a"]}, "xyz"),
        ({"y": ["x=b"], "z": ["y"]}, {"x": ["a"], "y": ["a"]}, "x"),  # hidden: no answer
        ({"y": ["x=b"], "z": ["!y"]}, {"x": ["a"], "y": ["a"]}, "xz"),
        ({"y": [""]}, {"x": ["a"]}, "xy"),
        ({"y": [""]}, {"y": ["a"]}, "x"),  # its own answer does not show it
        ({"x": ["y"], "y": ["x"]}, {"x": ["a"], "y": ["a"]}, ""),
        ({"y": ["x", "z"]}, {"x": ["a"]}, "x"),
        ({"x": ["!y"], "y": ["!x"]}, {"x": ["a"], "y": ["a"]}, ""),
        ({"x": ["!x"]}, {"x": ["a"]}, "xy"),  # its own answer does not hide it
        ({"y": ["x"], "z": ["!"]}, {"x": ["a"]}, "xy"),
        ({"y": ["x"], "z": ["!"]}, {"z": ["a"]}, "xz"),
    ],
)
def test_the_answers_decide_what_is_visible(
    conditions: dict[str, list[str]], answers: dict[str, list[str]], visible: str
) -> None:
    def parse_condition(text: str) -> VisibilityCondition:
        name, _, labels = text.lstrip("!").partition("=")
        return VisibilityCondition(name, tuple(labels), negated=text.startswith("!"))

    names = "xyz" if "z" in conditions or "z" in visible else "xy"
    controls = [control(name, *map(parse_condition, conditions.get(name, ()))) for name in names]
    assert visible_controls(controls, answers) == frozenset(visible)


def is_visible_by_definition(
    name: str,
    controls: dict[str, Control],
    answers: dict[str, list[str]],
    pending: frozenset[str] = frozenset(),
) -> bool:
    """Follow the conditions of a control on every path without a cycle."""
    pending |= {name}

    def holds(condition: VisibilityCondition) -> bool:
        others = [condition.control] if condition.control else [*answers]
        is_chosen = any(
            any(not condition.labels or label in condition.labels for label in answers.get(o, ()))
            and is_visible_by_definition(o, controls, answers, pending)
            for o in others
            if o in controls and o not in pending
        )
        return is_chosen != condition.negated

    return all(map(holds, controls[name].conditions))


def test_visible_controls_are_those_of_the_definition() -> None:
    """Random conditions: A on A, B on all, negated ones on A, and one that any answer hides."""
    rng = np.random.default_rng(0)
    first, second = ["a1", "a2", "a3"], ["b1", "b2", "b3"]

    def draw_conditions(names: list[str]) -> list[VisibilityCondition]:
        drawn = [VisibilityCondition(str(name)) for name in rng.choice(names, rng.integers(3))]
        return [replace(c, labels=("a",)) if rng.random() < 0.3 else c for c in drawn]

    sizes = set()
    for _ in range(500):
        controls = {name: control(name, *draw_conditions(first)) for name in first}
        for name in second:
            negated = [replace(c, negated=True) for c in draw_conditions(first)]
            controls[name] = control(name, *draw_conditions([*first, *second, ""]), *negated)
        controls["c"] = control("c", VisibilityCondition(negated=True))
        answers = {
            name: list(rng.choice(["a", "b"], rng.integers(3), replace=False))
            for name in (*first, *second)
            if rng.random() < 0.8
        }
        expected = {n for n in controls if is_visible_by_definition(n, controls, answers)}
        assert visible_controls(list(controls.values()), answers) == expected
        sizes.add(len(expected))
    assert len(sizes) > 5


@pytest.mark.parametrize("negated", [False, True])
def test_many_conditions_on_any_other_control_are_checked_fast(negated: bool) -> None:
    """Following every path would take about 30! steps."""
    condition = VisibilityCondition(negated=negated)
    names = [f"x{number}" for number in range(30)]
    controls = [control(name, condition) for name in names]
    answers = {name: ["a"] for name in (*names, "start")}
    began = time.perf_counter()
    assert visible_controls(controls, answers) == frozenset()
    shown = visible_controls([*controls, control("start")], answers)
    assert shown == ({"start"} if negated else {*names, "start"})
    assert time.perf_counter() - began < 1.0


def head(weight: list[list[float]]) -> Head:
    """A head of the labels a and b without calibration."""
    bias, weights = np.zeros(2, np.float32), np.asarray(weight, np.float32)
    return Head(("a", "b"), False, weights, bias, 1.0, 0.0, "none", "none", "text", examples=2)


def test_a_hidden_control_gets_no_prediction_and_makes_no_task_uncertain() -> None:
    first, second = control("x"), control("y", VisibilityCondition("x", ("a",)))
    model = Model({"x": head([[9, 0], [0, 9]]), "y": head([[0, 0], [0, 0]])})
    vectors = dict(zip(("one", "two"), np.eye(2, dtype=np.float32), strict=True))
    embeddings = EmbeddingResult(vectors, dict.fromkeys(vectors, SIZE), {})
    tasks = [Task(1, {"image": "one"}), Task(2, {"image": "two"})]
    result = infer(model, (first, second), tasks, embeddings, (), ())
    predicted = [
        {choice.control: list(choice.labels) for choice in prediction.choices}
        for prediction in result.predictions(tasks, {})
    ]
    assert predicted == [{"x": ["a"], "y": ["a"]}, {"x": ["b"]}]
    uncertainties = result.choice_uncertainties()
    assert uncertainties[1] > 0.9, "nobody knows y of it"
    assert uncertainties[2] < 0.1


@pytest.mark.parametrize(("confidence", "names"), [(0.9, ["x", "y"]), (0.6, ["x"])])
def test_a_label_below_its_threshold_shows_nothing(confidence: float, names: list[str]) -> None:
    first = replace(control("x"), threshold=0.7)
    second = control("y", VisibilityCondition("x"))
    prediction = Prediction(
        1,
        (
            ChoicePrediction("x", {"a": confidence}, SIZE),
            ChoicePrediction("y", {"b": 0.9}, SIZE),
        ),
        0.5,
    )
    kept = without_hidden(prediction, (first, second))
    assert [choice.control for choice in kept.choices] == names
    everything = without_hidden(prediction, (first, second), unfiltered=True)
    assert everything == prediction
