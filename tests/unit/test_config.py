"""Labeling configs: what is served, and the reason for everything else."""

from __future__ import annotations

from collections import Counter

import pytest

from backend.domain import Label
from backend.errors import ConfigError
from backend.label_studio.labeling_config import read_config
from backend.label_studio.task_results import parse_task

IMAGE = '<Image name="image" value="$photo"/>'
TWO = '<Choice value="a"/><Choice value="b"/>'


def view(body: str) -> str:
    return f"<View>{body}</View>"


def test_choices_become_a_control_with_everything_that_was_said() -> None:
    xml = view(
        IMAGE
        + """
        <View><Header value="Which?"/>
        <Choices name="plant" toName="image" choice="multiple" model_score_threshold="0.25">
          <Choice value="Healthy" alias="ok" hint="firm green leaves"/>
          <Choice value="Wilting" predicted_values="droopy plant, dry plant"/>
        </Choices></View>"""
    )
    (control,) = read_config(xml).controls
    assert (control.name, control.to_name, control.image_key) == ("plant", "image", "photo")
    assert control.multiple
    assert control.threshold == 0.25
    assert control.labels == (
        Label("ok", ("Healthy",), "firm green leaves"),
        Label("Wilting", ("droopy plant", "dry plant")),
    )


@pytest.mark.parametrize("choice", ["single", "single-radio"])
def test_both_single_modes_and_none_choose_one_of_many(choice: str) -> None:
    for attribute in (f'choice="{choice}"', ""):
        xml = view(IMAGE + f'<Choices name="c" toName="image" {attribute}>{TWO}</Choices>')
        assert not read_config(xml).controls[0].multiple


def test_several_controls_and_several_images() -> None:
    xml = view(
        IMAGE
        + '<Image name="side" value="$side"/>'
        + f'<Choices name="one" toName="image">{TWO}</Choices>'
        + f'<Choices name="two" toName="side">{TWO}</Choices>'
    )
    assert [(c.name, c.image_key) for c in read_config(xml).controls] == [
        ("one", "photo"),
        ("two", "side"),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f'<Choices name="c" toName="image" perRegion="true">{TWO}</Choices>', "to each region"),
        (f'<Choices name="c" toName="image" perItem="true">{TWO}</Choices>', "to each item"),
        (f'<Choices name="c" toName="image" model_skip="true">{TWO}</Choices>', "model_skip"),
        ('<Choices name="c" toName="image" value="$options"/>', "from the task's data"),
        ('<Choices name="c" toName="image"><Choice value="a"/></Choices>', "fewer than two"),
        (f'<Choices name="c" toName="text">{TWO}</Choices>', "not the name of an Image tag"),
        (f'<Choices name="c" toName="image" choice="odd">{TWO}</Choices>', 'choice="odd"'),
        (
            '<Choices name="c" toName="image"><Choice value="a"><Choice value="b"/></Choice>'
            '<Choice value="d"/></Choices>',
            "nested",
        ),
        ('<TextArea name="c" toName="image"/>', "only Choices, RectangleLabels, KeyPointLabels"),
        ('<PolygonLabels name="c" toName="image"><Label value="x"/></PolygonLabels>', "only"),
        ('<BrushLabels name="c" toName="image"><Label value="x"/></BrushLabels>', "only"),
        ('<RectangleLabels name="c" toName="image"/>', "no labels"),
        ('<RectangleLabels name="c" toName="image" value="$x"/>', "from the task's data"),
        (
            '<KeyPointLabels name="c" toName="image" smartOnly="true"><Label value="x"/>'
            "</KeyPointLabels>",
            "only for smart tools",
        ),
    ],
)
def test_what_is_not_served_is_named_with_its_reason(body: str, reason: str) -> None:
    config = read_config(view(IMAGE + body))
    assert config.controls == ()
    assert reason in config.unserved["c"]


@pytest.mark.parametrize(("attribute", "keeps"), [("true", True), ("1", True), ("false", False)])
def test_the_outermost_view_says_whether_the_projects_settings_stay(
    attribute: str, keeps: bool
) -> None:
    body = IMAGE + f'<Choices name="c" toName="image">{TWO}</Choices>'
    assert not read_config(view(body)).keeps_settings
    inner = f'<View model_keep_settings="{attribute}">{body}</View>'
    assert read_config(inner).keeps_settings is keeps
    assert not read_config(view(inner)).keeps_settings


def test_an_image_list_is_not_served() -> None:
    xml = view(
        f'<Image name="image" valueList="$photos"/><Choices name="c" toName="image">{TWO}</Choices>'
    )
    assert "list of images" in read_config(xml).unserved["c"]


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View>",
        "no xml",
        '<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><View>&b;</View>',
        '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
        view(IMAGE + f'<Choices name="c" toName="image" model_score_threshold="2">{TWO}</Choices>'),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(xml: str) -> None:
    with pytest.raises(ConfigError):
        read_config(xml)


@pytest.mark.parametrize(
    ("tag", "kind"), [("RectangleLabels", "boxes"), ("KeyPointLabels", "points")]
)
def test_boxes_and_points_become_controls(tag: str, kind: str) -> None:
    body = (
        f'<{tag} name="c" toName="image" model_score_threshold="0.4" model_object_size="5" '
        'smart="true"><Label value="apple" predicted_values="apple, pomaceous fruit" hint="round"/>'
        f'<Label value="Pear" alias="pear" model_object_size="8"/><Label value="apple"/></{tag}>'
    )
    (control,) = read_config(view(IMAGE + body)).controls
    assert (control.kind, control.threshold, control.multiple) == (kind, 0.4, False)
    assert control.smart
    assert control.label_names == ("apple", "pear")
    assert control.labels[0].words == ("apple", "pomaceous fruit")
    assert [label.extent for label in control.labels] == [0.05, 0.08]


def test_an_object_size_that_cannot_be_meant_is_refused() -> None:
    body = (
        '<KeyPointLabels name="c" toName="image" model_object_size="large"><Label value="x"/>'
        "</KeyPointLabels>"
    )
    with pytest.raises(ConfigError, match="model_object_size"):
        read_config(view(IMAGE + body))


@pytest.mark.parametrize("share", ["1", "1.0", "5", "-0.1", "nan", "5 %"])
def test_an_error_bound_that_every_answer_keeps_is_refused(share: str) -> None:
    body = f'<Choices name="c" toName="image" model_accept_error="{share}">{TWO}</Choices>'
    told = f'model_accept_error="{share}" of c must be a number from 0 to below 1, such as 0.01'
    with pytest.raises(ConfigError, match=told):
        read_config(view(IMAGE + body))


@pytest.mark.parametrize("share", ["0", "0.01", "0.99"])
def test_an_error_bound_below_one_is_read(share: str) -> None:
    body = f'<Choices name="c" toName="image" model_accept_error="{share}">{TWO}</Choices>'
    assert read_config(view(IMAGE + body)).controls[0].accept_error == float(share)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("$meta.image", {"meta": {"image": "/a.jpg"}}),
        ("$meta.image", {"meta.image": "/a.jpg", "meta": {"image": "/b.jpg"}}),
        ("$imgs[0]", {"imgs": ["/a.jpg", "/b.jpg"]}),
        ("$pages[1].url", {"pages": [{}, {"url": "/a.jpg"}]}),
    ],
)
def test_an_image_in_a_nested_field_is_read(value: str, data: dict[str, object]) -> None:
    image = f'<Image name="image" value="{value}"/>'
    xml = view(image + f'<Choices name="c" toName="image">{TWO}</Choices>')
    controls = read_config(xml).controls
    task = parse_task({"id": 1, "data": data}, controls, {}, Counter())
    assert list(task.images.values()) == ["/a.jpg"]
    assert not parse_task({"id": 1, "data": {"imgs": "x"}}, controls, {}, Counter()).images
