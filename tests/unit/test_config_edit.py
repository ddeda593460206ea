"""Renaming a label in a labeling config keeps all other characters."""

from __future__ import annotations

import pytest

from backend.errors import ConfigError
from backend.label_studio.config_edit import add_label_beside, remove_label
from backend.label_studio.labeling_config import read_config

CONFIG = """<View>\r
  <!-- <Choice value="pants"/> pants are trousers -->
  <Image name="image" value="$image"/>
  <Choices name="clothes" toName="image" choice="multiple" showInline='true'>
\t<Choice hint="value='pants' > all" value = 'pants' hotkey="1"   background="red" /><Choice
       value="dress">
    </Choice>
    <Choice value="Überrock &amp; &lt;hat&gt;" alias="coat"></Choice>
  </Choices>
  <Choices name="cut" toName="image" whenTagName="clothes" whenChoiceValue="dress,pants,coat">
    <Choice value="pants"/><Choice value="long"/>
  </Choices>
  <RectangleLabels name="boxes" toName="image">
    <Label value="pants"/><Label value="shoe"/>
  </RectangleLabels>
</View>
"""


def labels(xml: str, control: str) -> tuple[str, ...]:
    return next(c.label_names for c in read_config(xml).controls if c.name == control)


@pytest.mark.parametrize(
    ("control", "old", "new", "before", "after"),
    [
        ("clothes", "pants", "trousers", "value = 'pants'", "value = 'trousers'"),
        ("clothes", "dress", "a \"b\" & <c>", 'value="dress"',
         'value="a &quot;b&quot; &amp; &lt;c&gt;"'),
        ("clothes", "coat", "jacket", 'alias="coat"', 'alias="jacket"'),
        ("boxes", "shoe", "Schuh ß", 'value="shoe"', 'value="Schuh ß"'),
        ("cut", "long", "wide", 'value="long"', 'value="wide"'),
    ],
)  # fmt: skip
def test_both_edits_change_only_the_name(
    control: str, old: str, new: str, before: str, after: str
) -> None:
    both = add_label_beside(CONFIG, control, old, new)
    assert {old, new} <= set(labels(both, control)), "annotations may have either meanwhile"
    renamed = remove_label(both, control, old, new)
    expected = CONFIG.replace(before, after)
    condition = expected.split('whenChoiceValue="')[1].split('"')[0]
    told = ",".join(new if label == old else label for label in condition.split(","))
    if control == "clothes":
        told = told.replace('"', "&quot;").replace("& <c>", "&amp; &lt;c&gt;")
        expected = expected.replace(f'whenChoiceValue="{condition}"', f'whenChoiceValue="{told}"')
    assert renamed == expected
    assert old not in labels(renamed, control)


def test_only_the_control_of_the_label_is_changed() -> None:
    both = add_label_beside(CONFIG, "boxes", "pants", "jeans")
    renamed = remove_label(both, "boxes", "pants", "jeans")
    assert labels(renamed, "boxes") == ("jeans", "shoe")
    assert labels(renamed, "clothes") == labels(CONFIG, "clothes")
    assert labels(renamed, "cut") == ("pants", "long")


def test_a_label_that_is_missing_changes_nothing() -> None:
    assert add_label_beside(CONFIG, "boxes", "nothing", "new") == CONFIG
    assert remove_label(CONFIG, "nothing", "pants", "jeans") == CONFIG


def test_a_config_with_entities_is_refused() -> None:
    with pytest.raises(ConfigError):
        remove_label('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "a", "b", "c")


CONDITION = """<view>
  <choices Name="clothes" toName="image">
    <choice Value="trousers"/>{}<CHOICE value="dress"/></choices>
  <Choices name="cut" toName="image" visibleWhen="choice-selected" {}="clothes" {}="{}">
    <Choice value="long"/></Choices>
</view>"""


@pytest.mark.parametrize("tag_name", ["whenTagName", "whentagname"])
@pytest.mark.parametrize("value", ["whenChoiceValue", "whenchoicevalue", "WhenLabelValue"])
@pytest.mark.parametrize(
    ("told", "renamed"),
    [
        ("pants", "trousers"),
        ("pants,dress", "trousers,dress"),
        ("trousers,pants", "trousers"),
        ("pants,trousers,dress", "trousers,dress"),
        ("dress", "dress"),
        ("", ""),
    ],
)
def test_a_condition_on_a_label_gets_the_new_name_even_if_the_label_is_gone(
    tag_name: str, value: str, told: str, renamed: str
) -> None:
    """An empty condition would hold for any answer; names of tags and attributes have any case."""
    expected = CONDITION.format("", tag_name, value, renamed)
    for old in ("", "<choice Value='pants' Hotkey=\"1\"/>"):
        config = CONDITION.format(old, tag_name, value, told)
        assert remove_label(config, "clothes", "pants", "trousers") == expected


def test_names_of_any_case_are_renamed_in_two_steps() -> None:
    config = CONDITION.format("", "WHENTAGNAME", "whenchoicevalue", "dress")
    both = add_label_beside(config, "clothes", "dress", "gown")
    assert '<CHOICE value="gown"/><CHOICE value="dress"/>' in both
    assert '"gown,dress"' in both
    assert remove_label(both, "clothes", "dress", "gown") == config.replace("dress", "gown")
    assert add_label_beside(both, "clothes", "dress", "gown").count("gown,dress") == 1
