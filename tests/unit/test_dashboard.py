"""The dashboard's pages: full and empty projects, hostile names, and cross-site protection."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from backend.card_records import ControlCard, CurvePrediction, Outlook
from backend.dashboard.audit_values import AuditPairs
from backend.dashboard.chart import build_chart
from backend.dashboard.page_reader import DashboardReader, JsonFileCache
from backend.dashboard.rendering import PageRenderer
from backend.dashboard.values import VersionRow
from backend.dashboard.wording import explain_figure
from backend.domain import Control, Label
from backend.estimate import IntervalEstimate, format_headline
from backend.label_studio.choice_edit import suggested_edit
from backend.learning.coverage import build_coverage
from backend.loop.publish.queue_order import QueueOrder
from backend.loop.publish.thumbnails import select_examples
from backend.records import ControlStatus, HeldVersion, ProjectStatus, RoundStatus
from backend.server.cross_origin import explain_form_refusal
from backend.store.audit_predictions import (
    AuditAnswer,
    AuditPredictions,
    AuditRegion,
    differ_predictions,
    save_audit_predictions,
)
from backend.store.captures import CaptureStore
from backend.store.confirmed_labels import ConfirmedLabels
from backend.store.files import write_json
from backend.store.label_changes import MAX_LABEL_CHANGES, LabelChange, LabelChanges
from backend.store.label_examples import LabelExample, LabelExamples, save_label_examples
from backend.store.label_tab import LABEL_TAB_FILE, save_labeling_path
from backend.store.queue_front import QueueFront, StoredLabelError, StoredLabelErrors
from backend.store.smart_tool_answer import save_answer
from backend.store.versions import VersionStore
from tests.support.dashboard_client import SERVER, page, served, text
from tests.support.dashboard_homes import (
    CONTROL_DESCRIPTIONS,
    make_answers,
    make_card,
    make_full_home,
    make_project_status,
)
from tests.support.observations import make_observation

MAX_PAGE_BYTES = 200_000
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


# -- pages -----------------------------------------------------------------------------------


def test_a_page_shows_all_sections(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    html = page(tmp_path, shown, "promote")
    told = text(html)
    for wanted in (
        "That version is live.",
        "healthy predicted as wilting 2 times",
        "19 of 21 audit images are predicted correctly. They were selected at random",
        "epoch 4, less than a minute left",
        "180 of 600",
        "Auto-accepted 12",
        "Auto-accept: Stopped: people corrected 4 of 20 accepted answers.",
        "About 40 to 90 more labels",
        "about 12 more of dead",
        "Selected at random to measure the accuracy",
        "Least similar to the images labeled so far",
        "(uncertainty 83%)",
        "healthy predicted as wilting",
        "(nothing)",
        "Counting error: 12% of the objects (5% to 19%)",
        "Check: labeled healthy , the model predicts wilting",
        "2 waiting for import, 1 imported as tasks.",
        "v5-0123abcd is newer and not live. Held back: it is worse.",
        "Roll back to v3-0123abcd",
        "by the loop",
        "3 × rotated box",
        "ViT-B-32-256/datacomp_s34b_b86k",
    ):
        assert wanted in told, wanted
    assert f'href="{SERVER}/projects/1/data?task=40"' in html
    assert 'src="../projects/1/pictures/capture-req-0.jpg"' in html
    assert html.count("<tr") == html.count("</tr>")


def test_a_choice_that_was_set_back_is_said(tmp_path: Path) -> None:
    reset = {"at": "2026-11-01T10:00:00+00:00", "sampling": "Sequential sampling"}
    told = text(page(tmp_path, make_project_status(settings_reset=reset)))
    assert "were changed to Sequential sampling. Prelabel set them back" in told
    hostile = page(tmp_path, make_project_status(settings_reset={"model_version": HOSTILE}))
    assert "<script>alert" not in hostile


def test_people_are_told_to_only_submit_a_right_suggestion(tmp_path: Path) -> None:
    """The key of a suggested choice toggles it, so that an empty annotation is submitted."""
    head = "only submit it with Ctrl+Enter (Cmd+Enter on a Mac). Pressing its own key turns it off."
    told = text(page(tmp_path, make_full_home(tmp_path)))
    assert head not in told, "none of the controls predicts anything yet"
    predicting = [{**row, "kind": "linear head"} for row in CONTROL_DESCRIPTIONS]
    told = text(page(tmp_path, make_project_status(controls=predicting)))
    assert told.index("Label in Label Studio") < told.index(head) < told.index("Accuracy")
    boxes = text(page(tmp_path, make_project_status(controls=predicting[1:])))
    assert "If the suggestions are right, only submit them with Ctrl+Enter" in boxes
    assert "turns it off" not in boxes


def test_a_project_without_open_images_leads_to_what_comes_next(tmp_path: Path) -> None:
    predicting = [{**row, "kind": "linear head"} for row in CONTROL_DESCRIPTIONS]
    shown = make_project_status(tasks=60, labels=60, controls=predicting)
    html = page(tmp_path, shown)
    told = text(html)
    assert "Label in Label Studio" not in told, "its queue is empty"
    assert f'class="button" href="{SERVER}/projects/1/data"' in html
    assert "Every image is labeled. Next, add images to the project, see the labels" in told
    assert "`" not in told, "that is for the terminal"
    assert "only submit" not in told
    held = {"version": "v2-0a", "reason": "It is worse."}
    told = text(page(tmp_path, replace(shown, held=HeldVersion(**held))))
    assert "Keep labeling" not in told
    partly = text(page(tmp_path, replace(shown, labels=59)))
    assert "Label in Label Studio" in partly
    assert "Keep labeling: the most informative image is next." in partly


def test_requested_predictions_are_no_idleness(tmp_path: Path) -> None:
    shown = make_project_status(predicting={"answered": 30, "requested": 120})
    told = text(page(tmp_path, shown))
    assert "Computing predictions for Label Studio 25%" in told
    assert "30 of 120 tasks" in told
    assert "Idle" not in told
    cards = text(PageRenderer(10).cards([DashboardReader(tmp_path, SERVER).summary(shown)]))
    assert "Computing predictions" in cards
    round_status = {"state": "training", "progress": 0.5}
    both = make_project_status(predicting={"answered": 3, "requested": 4}, round=round_status)
    told = text(page(tmp_path, both))
    assert "Training 50%" in told
    assert "Computing predictions for Label Studio: 3 of 4 tasks" in told


def test_wrong_audit_images_stand_under_the_accuracy_with_their_labels(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    html = page(tmp_path, shown)
    accuracy = html[html.index('id="h-figure"') : html.index('id="h-round"')]
    assert "Wrong predictions on 4 of 20 audit images" in accuracy
    assert f'href="{SERVER}/projects/1/data?task=100"' in accuracy
    assert 'src="../projects/1/pictures/100.jpg" alt="Task 100"' in accuracy
    assert "labeled wilting , predicted healthy" in text(accuracy)
    assert "leaves: missed 2 leaf; false 2 leaf" in text(accuracy)
    marks = re.findall(r'<(rect|path) class="([\w ]+)"', accuracy[: accuracy.index("legend")])
    assert marks == [
        ("rect", "correct"),
        ("rect", "missed"),
        *(("rect", "false"), ("path", "false")),  # crossed
        *(("path", "dot missed"), ("path", "hole")),  # a ring
        ("path", "false"),  # a cross
        ("path", "dot correct"),
    ]
    first = replace(shown, version="v0-0123abcd")
    html = page(tmp_path, first)
    assert "Wrong predictions on 8 of 20 audit images" in html
    assert 'href="../projects/1/audit">All 8 wrong images' in html
    (
        VersionStore(tmp_path / "projects" / "1").path(shown.version or "")
        / "audit_predictions.json"
    ).unlink()
    assert "audit images</h3>" not in page(tmp_path, shown), "an early release evaluated it"


def audit_page(home: Path, shown: ProjectStatus, selection: AuditPairs) -> str:
    reader = DashboardReader(home, SERVER)
    summary = reader.summary(shown)
    return PageRenderer(10).render_audit(summary, reader.audit_page(summary, selection))


def test_a_cell_of_the_confusion_matrix_leads_to_its_images(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    html = page(tmp_path, shown)
    cell = 'audit?control=plant&amp;given=healthy&amp;predicted=wilting"'
    assert (
        f'href="../projects/1/{cell} aria-label="2 of healthy predicted as wilting">2</a>' in html
    )
    assert 'given=healthy&amp;predicted="' in html, "nothing was predicted"
    pair = audit_page(tmp_path, shown, AuditPairs("plant", "healthy", "wilting", True))
    assert "2 of 20 audit images" in text(pair)
    assert re.findall(r'data\?task=(\d+)"', pair) == ["101", "103"]
    wrong = audit_page(tmp_path, shown, AuditPairs())
    assert re.findall(r'data\?task=(\d+)"', wrong) == ["100", "101", "102", "103"]
    hostile = audit_page(tmp_path, shown, AuditPairs(HOSTILE, HOSTILE, HOSTILE, True))
    assert "<script>alert" not in hostile
    assert "No matching image among the 20 audit images" in hostile


def comparison(home: Path, shown: ProjectStatus, first: str, second: str) -> str:
    reader = DashboardReader(home, SERVER)
    summary = reader.summary(shown)
    return PageRenderer(10).comparison(summary, reader.comparison(summary, first, second))


def test_two_versions_are_compared_on_the_same_images(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    versions = VersionStore(tmp_path / "projects" / "1")
    old, live = "v1-0123abcd", shown.version or ""
    assert 'action="../projects/1/compare"' in page(tmp_path, shown)
    html = comparison(tmp_path, shown, old, live)
    told = text(html)
    assert f"predictions of {old} and {live} differ on 3 of 20 audit images." in told
    assert f"Only {old} is correct on 0 of them, and only {live} on 3." in told
    assert "17 images with the same predictions" in told
    linked = list(dict.fromkeys(re.findall(r"data\?task=(\d+)", html)))
    assert linked[:3] == ["104", "105", "106"], "those that differ come first"
    assert len(linked) == 20
    assert f"<option selected>{old}</option>" in html
    changed = dict(make_answers(1).tasks)
    for task in (104, 105, 106):  # a label of then, which was corrected since
        (predicted,) = changed[task]["plant"].predicted
        changed[task] = {"plant": AuditAnswer((predicted,), (predicted,))}
    save_audit_predictions(AuditPredictions(changed), versions.path(old))
    assert told == text(comparison(tmp_path, shown, old, live)), "the newer labels count"
    same = text(comparison(tmp_path, shown, live, live))
    assert f"{live} and {live} predict the same on all 20 audit images." in same
    unknown = text(comparison(tmp_path, shown, HOSTILE, "../.."))
    assert f"predictions of {live} and v5-0123abcd differ" in unknown
    for name in versions.names()[1:]:
        (versions.path(name) / "audit_predictions.json").unlink()
    assert "Two versions with stored predictions are needed" in comparison(tmp_path, shown, "", "")
    assert 'action="../projects/1/compare"' not in page(tmp_path, shown)


def test_detectors_are_compared_by_what_they_find() -> None:
    def answers(*regions: AuditRegion) -> dict[str, AuditAnswer]:
        return {"leaves": AuditAnswer(regions=regions)}

    found = AuditRegion("correct", "leaf", 0.1, 0.1, 0.4, 0.5)
    moved = replace(found, x0=0.12)
    missed = replace(found, outcome="missed")
    assert not differ_predictions(answers(found), answers(moved))
    assert differ_predictions(answers(found), answers(missed))
    assert differ_predictions(answers(found), answers(found, replace(found, outcome="false")))


def test_examples_of_each_label_are_shown_with_their_regions(tmp_path: Path) -> None:
    html = page(tmp_path, make_full_home(tmp_path))
    plant, leaves = re.findall(r'<details class="examples">(.*?)</details>', html, re.S)
    assert re.findall(r"<h3>(\w+)</h3>", plant) == ["healthy", "wilting"]
    assert re.findall(r"data\?task=(\d+)", plant) == ["60", "61", "62", "63", "64"]
    assert '<rect class="given" x="10.0" y="10.0" width="30.0" height="40.0"/>' in leaves


def test_what_does_not_apply_is_folded(tmp_path: Path) -> None:
    folded = re.findall(
        r"<details[^>]*><summary>(?:<h2>)?([^<]+)", page(tmp_path, make_project_status())
    )
    assert folded == ["Learning curve and forecast", "Images captured by the endpoint"]
    status = make_full_home(tmp_path / "full")
    assert '<details class="panel">' not in page(tmp_path / "full", status)
    nothing = ControlCard(figures={"confusion": {"healthy": {"healthy": 0}}, "labels": {}})
    card = replace(make_card(9, 300), controls={"plant": nothing})
    VersionStore(tmp_path / "full" / "projects" / "1").save(card, {}, lambda folder: None)
    html = page(tmp_path / "full", replace(status, version=card.version))
    assert "<details><summary>Confusions</summary>" in html
    assert 'class="confusion"' not in html


def test_the_page_of_5000_tasks_stays_small(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    folder = VersionStore(tmp_path / "projects" / "1").path(shown.version or "")
    answers = make_answers(4).tasks
    region = AuditRegion("missed", "leaf", 0.1, 0.1, 0.4, 0.5)
    leaves = {"leaves": AuditAnswer(regions=(region,) * 10)}
    tasks = {task: {**answers[100 + task % 20], **leaves} for task in range(500)}
    save_audit_predictions(AuditPredictions(tasks), folder)
    shown = replace(shown, tasks=5000, labels=5000)
    reader, pages = DashboardReader(tmp_path, SERVER), PageRenderer(10)
    html = pages.render_project(reader.page(shown), "")
    assert len(html) < MAX_PAGE_BYTES
    assert "Wrong predictions on 500 of 500" in html


def test_the_button_leads_to_the_tab_in_the_order_of_the_queue(tmp_path: Path) -> None:
    shown = make_project_status(title="Kiwis")
    assert f'class="button" href="{SERVER}/projects/1/data?labeling=1"' in page(tmp_path, shown)
    save_labeling_path(tmp_path / "projects" / "1", "data?tab=12&labeling=1")
    html = page(tmp_path, shown)
    assert f'class="button" href="{SERVER}/projects/1/data?tab=12&amp;labeling=1"' in html
    (tmp_path / "projects" / "1" / LABEL_TAB_FILE).write_text("damaged")
    assert f'class="button" href="{SERVER}/projects/1/data?labeling=1"' in page(tmp_path, shown)


def test_a_new_project_shows_what_to_do_next(tmp_path: Path) -> None:
    assert "Import images into the project" in text(
        page(tmp_path, make_project_status(title="Kiwis"))
    )
    shown = make_project_status(tasks=30, version=None, controls=CONTROL_DESCRIPTIONS)
    told = text(page(tmp_path, shown))
    assert "Label a few images of each kind" in told
    assert "Training starts after 10 labels, after a pause in labeling" in told
    failed = {"state": "failed", "progress": 0.0, "detail": None, "error": "No token: set one."}
    told = text(page(tmp_path, make_project_status(round=failed)))
    assert "No token: set one." in told
    assert "retries automatically" in told


def test_a_held_version_is_not_reported_as_up_to_date(tmp_path: Path) -> None:
    held = HeldVersion("v5-0123abcd", "Held back: it is worse.")
    status = replace(make_full_home(tmp_path), held=held, waiting=0, round=RoundStatus())
    told = text(page(tmp_path, status))
    assert "up to date with all labels. Keep" not in told
    assert "v5-0123abcd is up to date with all labels, but is held back." in told


def test_tasks_submitted_without_a_choice_are_listed(tmp_path: Path) -> None:
    status = replace(make_full_home(tmp_path), unanswered=tuple(range(500, 514)))
    html = page(tmp_path, status)
    told = text(html)
    assert "14 images were submitted without a choice." in told
    assert "Task 511 and 2 more." in told
    assert f'href="{SERVER}/projects/1/data?task=500"' in html


def test_an_empty_answer_of_a_smart_tool_is_explained_until_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "projects" / "1"
    status = replace(
        make_full_home(tmp_path),
        controls=(ControlStatus(name="box", type="RectangleLabels", labels=("a",), smart=True),),
    )
    assert "choose Auto-Detect (key M)" in text(page(tmp_path, status))
    save_answer(folder, 7, "The detector found no other a.")
    reason = "At the last use, on task 7, nothing was suggested. The detector found no other a."
    assert reason in text(page(tmp_path, status))
    save_answer(folder, 8, "")
    assert "nothing was suggested" not in text(page(tmp_path, status))
    plain = replace(status, controls=(replace(status.controls[0], smart=False),))
    assert "Auto-Detect" not in text(page(tmp_path, plain))


def test_an_empty_overview_explains_how_to_connect_a_project() -> None:
    html = PageRenderer(10).overview([], notice="", address="http://127.0.0.1:9090", secured=False)
    assert "Paste http://127.0.0.1:9090" in text(html)
    assert "Connect Model" in html


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path, title=HOSTILE)
    folder = tmp_path / "projects" / "1"
    hostile = make_card(9, 300)
    control = replace(
        hostile.controls["plant"],
        examples={HOSTILE: 3},
        figures={"confusion": {HOSTILE: {"healthy": 2}}, "labels": {}},
        advice=HOSTILE,
    )
    told = replace(hostile, controls={HOSTILE: control}, packages={HOSTILE: HOSTILE})
    answer = AuditAnswer((HOSTILE,), ("healthy",))
    region = AuditAnswer(regions=(AuditRegion("missed", HOSTILE, 0, 0, 1, 1),))
    audit = AuditPredictions({1: {HOSTILE: answer, "leaves": region}})
    VersionStore(folder).save(told, {}, lambda made: save_audit_predictions(audit, made))
    shown = replace(
        shown,
        version=hostile.version,
        left_out={HOSTILE: 1},
        server="javascript:alert(1)",
        controls=(ControlStatus(name=HOSTILE, type="Choices", labels=(HOSTILE,)),),
        round=RoundStatus("training", 0.1, HOSTILE, HOSTILE),
    )
    suspect = {"task": 1, "control": "x", "given": HOSTILE, "suggested": HOSTILE}
    write_json(folder / "suspects.json", {"suspects": [suspect | {"quality": 0, "why": HOSTILE}]})
    example = LabelExample(1, ((0.1, 0.1, 0.2, 0.2),))
    save_label_examples(LabelExamples({HOSTILE: {HOSTILE: (example,)}}), folder)
    older = VersionStore(folder).names()[1]
    pages = [
        comparison(tmp_path, shown, hostile.version, older),
        audit_page(tmp_path, shown, AuditPairs()),
        PageRenderer(10).try_answer(
            DashboardReader(tmp_path, SERVER).summary(shown),
            {
                "version": HOSTILE,
                "controls": {
                    HOSTILE: {"labelConfidences": [{"labelName": HOSTILE, "confidence": 1}]}
                },
            },
        ),
    ]
    for other in pages:
        assert "<script>alert" not in other
        assert "<img src=x" not in other
        assert other.count("{{ 7 * 7 }}") >= 2
    html = page(tmp_path, shown, HOSTILE)
    assert '<details class="examples">' in html
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "javascript:" not in html
    assert html.count("{{ 7 * 7 }}") >= 8
    summary = DashboardReader(tmp_path, SERVER).summary(shown)
    cards = PageRenderer(10).overview([summary], notice=HOSTILE, address=HOSTILE, secured=True)
    assert "<script>alert" not in cards


def test_rendering_time_grows_less_than_the_number_of_versions(
    tmp_path: Path,
) -> None:
    few, many = (
        make_full_home(tmp_path / "few", versions=10),
        make_full_home(tmp_path / "many", versions=100),
    )
    shown = [
        (DashboardReader(tmp_path / name, SERVER), now)
        for name, now in (("few", few), ("many", many))
    ]
    pages = PageRenderer(10)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(8):  # side by side, because machines are busy with other things
        for (reader, now), taken in zip(shown, seconds, strict=True):
            start = time.process_time()
            html = pages.render_project(reader.page(now), "")
            taken.append(time.process_time() - start)
    assert "90 older versions" in html
    assert min(seconds[1]) < 10 * min(seconds[0]), seconds


def test_a_damaged_card_is_reported_on_the_page_of_its_project(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    file = VersionStore(tmp_path / "projects" / "1").path(shown.version or "") / "card.json"
    file.write_text("{")
    reader = DashboardReader(tmp_path, SERVER)
    assert reader.summary(shown).title == "Greenhouse"
    page = reader.page(shown)
    assert shown.version not in [row.card.version for row in page.versions]
    assert any("card.json is damaged" in problem for problem in page.problems)
    assert "card.json is damaged" in PageRenderer(10).render_project(page, "")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    files, file = JsonFileCache(), tmp_path / "a.json"
    assert files.read(file) is None
    write_json(file, {"a": 1})
    assert files.read(file) == {"a": 1}
    assert files.read(file) is files.read(file)
    write_json(file, {"a": 2})
    assert files.read(file) == {"a": 2}


@pytest.mark.parametrize(
    ("figure", "head", "says"),
    [
        (
            IntervalEstimate(),
            "too early to tell",
            "none of the 10 audit images needed is labeled",
        ),
        (
            IntervalEstimate(100, 0.87, 0.79, 0.92),
            "87%",
            "87 of 100 audit images are predicted correctly. They were selected at random and are "
            "never used for training. The true figure is between 79% and 92% with",
        ),
        (IntervalEstimate(20, 0.9, 0.7, 0.97), "90%", "rough figure"),
        (IntervalEstimate(12, 1.0, 0.7575, 1.0), "100%", "12 of 12 audit images are predicted"),
        (
            IntervalEstimate(3, 1.0, 0.4, 1.0),
            "too early to tell",
            "3 of the 10 audit images needed are labeled",
        ),
        (
            IntervalEstimate(9, 0.0, 0.0, 0.3, "F1"),
            "too early to tell",
            "9 of the 10 audit images needed are labeled",
        ),
        (IntervalEstimate(12, None, 0.0, 1.0, "F1"), "not known yet", ""),
        (
            IntervalEstimate(50, 0.81, 0.7, 0.9, "F1"),
            "F1 81%",
            "finds all objects and nothing else. It is measured on 50 audit images.",
        ),
    ],
)
def test_figures_are_explained_in_plain_words(
    figure: IntervalEstimate, head: str, says: str
) -> None:
    assert format_headline(figure) == head
    assert says in explain_figure(figure)


def test_the_labels_until_the_first_figure_are_counted() -> None:
    early = IntervalEstimate(3, 1.0, 0.4, 1.0)
    assert "The first figure comes after about 70 more labels." in explain_figure(early)
    assert "after about 20 more labels" in explain_figure(early, 8)
    enough = explain_figure(early, 11)
    assert "11 audit images are labeled, which is enough" in enough
    assert "more labels" not in enough


FEW_IMAGES = IntervalEstimate(3, 1.0, 0.4, 1.0)
CROSS_VALIDATED = IntervalEstimate(40, 0.8, 0.65, 0.9, "accuracy by cross-validation")


def show_early_version(home: Path, uncertain_labels: int) -> tuple[str, str]:
    """Return the text of the page and of the card of a project with three audit images."""
    status = make_full_home(home)
    card = make_card(
        9, 40, audit=FEW_IMAGES, estimate=CROSS_VALIDATED, uncertain_labels=uncertain_labels
    )
    VersionStore(home / "projects" / "1").save(card, {}, lambda folder: None)
    status = replace(status, version=card.version, controls=())
    cards = PageRenderer(10).cards([DashboardReader(home, SERVER).summary(status)])
    return text(page(home, status)), text(cards)


def test_figures_on_few_audit_images_are_not_shown(tmp_path: Path) -> None:
    html, card = show_early_version(tmp_path, uncertain_labels=0)
    for shown in (html, card):
        assert "too early to tell" in shown
        assert "3 of the 10 audit images needed are labeled" in shown
        assert "80%" in shown
    assert "100%" not in card
    assert "Estimate until then, by cross-validation: 80% (65% to 90%), on 40 labeled" in html
    assert "too early to tell, estimated 80%" in html, "the table of versions"


def test_an_estimate_is_called_too_low_only_where_the_queue_chose_the_labels(
    tmp_path: Path,
) -> None:
    imported, _ = show_early_version(tmp_path / "imported", uncertain_labels=19)
    queued, _ = show_early_version(tmp_path / "queued", uncertain_labels=20)
    assert "because they are difficult" not in imported
    assert "Most of them were selected because they are difficult" in queued


ALL_CORRECT = IntervalEstimate(12, 1.0, 0.7575, 1.0)


def accuracy_values(html: str) -> list[str]:
    """Return the percentages in the panel of the accuracy and in that of the curve, unfolded."""
    unfolded = re.sub(r"<details.*?</details>", "", html, flags=re.DOTALL)
    panels = unfolded[unfolded.index('id="h-figure"') : unfolded.index('id="h-queue"')]
    round_panel = unfolded[unfolded.index('id="h-round"') : unfolded.index('id="notify"')]
    return re.findall(r"\d+%", text(panels.replace(round_panel, "")))


@pytest.mark.parametrize("source", ["audit set", "cross-validation"])
def test_a_page_has_one_accuracy_with_its_interval(tmp_path: Path, source: str) -> None:
    """Versions of early releases have a forecast of the cross-validated accuracy."""
    status = make_full_home(tmp_path, versions=1)
    versions = VersionStore(tmp_path / "projects" / "1")
    points = (CurvePrediction(40, 0.83, 0.7, 0.9), CurvePrediction(120, 0.84, 0.72, 0.91))
    ahead = Outlook("90% is not within reach.", curve=points, source="cross-validation")
    reached = Outlook("The accuracy has reached the goal of 99%.", curve=(), source="audit set")
    for number in (7, 8, 9):
        card = make_card(
            number,
            10 * number,
            audit=ALL_CORRECT if number == 9 else FEW_IMAGES,
            estimate=replace(CROSS_VALIDATED, value=0.83),
            outlook=reached if source == "audit set" else ahead,
        )
        versions.save(card, {}, lambda folder: None)
    html = page(tmp_path, replace(status, version=card.version, controls=()))
    assert "12 of 12 audit images are predicted correctly" in text(html)
    assert "of 100 images" not in html
    assert "not within reach" not in html
    goal = ["99%"] if source == "audit set" else []
    #      headline, interval,      explained interval, confidence
    assert accuracy_values(html) == ["100%", "76%", "100%", "76%", "100%", "95%", *goal]
    (details,) = re.findall(
        "<summary>Details</summary>(.*?)</details>", html[: html.index("h-round")]
    )
    assert "Estimated by cross-validation: 83% (65% to 90%), on 40 labeled images." in details


def row(labels: int, n: int, value: float | None) -> VersionRow:
    audit = IntervalEstimate(n, value, 0.5, 0.99)
    return VersionRow(make_card(labels, labels, audit=audit, estimate=None), False, True)


def test_the_curve_has_a_mark_per_measured_version_in_label_order() -> None:
    assert build_chart([row(10, 0, None), row(5, 12, 0.7)], Outlook()) is None
    assert build_chart([row(10, 9, 1.0), row(5, 12, 0.7)], Outlook()) is None, "nine images"
    chart = build_chart([row(40, 20, 0.9), row(20, 12, 0.8), row(10, 0, None)], Outlook())
    assert chart is not None
    first, second = chart.marks
    assert first.x < second.x
    assert first.y > second.y, "upwards is smaller"
    assert not chart.band
    ahead = Outlook(
        curve=(CurvePrediction(40, 0.9, 0.85, 0.93), CurvePrediction(120, 0.94, 0.88, 0.97))
    )
    forecast = build_chart([row(40, 20, 0.9), row(20, 12, 0.8)], ahead)
    assert forecast is not None
    assert len(forecast.band.split()) == 4
    assert forecast.x_ticks[-1].text == "100"


def test_the_front_of_the_queue_has_reasons() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = np.linspace(0.1, 0.9, 40, dtype=np.float32)
    order = QueueOrder(
        project_identity="1.1",
        pool_tasks=list(range(40)),
        coverage=build_coverage(vectors, weights, vectors[:0]),
        open_tasks=set(range(44)),
        audit_tasks={40, 41, 42, 43},
        labeled_count=0,
        audit_labeled_count=0,
        diversity_interval=4,
        search_interval=4,
        overflow_tasks=[],
        missing_label_tasks=[7],
        uncertainties=dict(enumerate(weights.tolist())),
    )
    front = order.first_tasks(24)
    assert [one.task for one in front] == order.ranked_tasks()[:24]
    assert {one.reason for one in front} == {"audit", "sought", "unlike", "uncertain"}
    assert all(one.reason == "audit" for one in front if one.task >= 40)
    assert all(
        one.uncertainty == pytest.approx(weights[one.task], abs=1e-3)
        for one in front
        if one.uncertainty
    )
    order.is_trained = False
    assert "uncertain" not in {one.reason for one in order.first_tasks(24)}


def test_examples_of_a_label_are_the_same_labeled_images_in_every_round() -> None:
    labeled = {task: "red" if task % 3 else "blue" for task in range(0, 60, 2)}
    examples = select_examples(make_observation(60, labeled))
    for label in ("red", "blue"):
        tasks = [example.task for example in examples.of_label("colour", label)]
        assert len(tasks) == 4
        assert all(labeled[task] == label for task in tasks)
    more = labeled | {1: "red"}
    again = select_examples(make_observation(60, more)).tasks()
    assert len(set(again) & set(examples.tasks())) >= 7
    assert select_examples(make_observation(60, {})).tasks() == []


def test_captures_are_counted_without_reading_them(tmp_path: Path) -> None:
    make_full_home(tmp_path)
    captures = CaptureStore(tmp_path / "projects" / "1")
    assert captures.counts() == (2, 1)
    assert [one.id for one in captures.latest(2)] == ["req-2", "req-1"]


def _light(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = colour.lstrip("#")
    parts = "".join(2 * c for c in parts) if len(parts) == 3 else parts
    shares = [int(parts[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_contrast_is_sufficient_in_light_and_dark(scheme: int) -> None:
    sheet = PageRenderer(10).asset("style.css")
    assert sheet is not None
    block = re.findall(r":root \{(.*?)\}", sheet.content.decode(), re.S)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    grounds = ("ground", "panel", "notice", "chip")
    pairs = [(ink, on) for ink in ("ink", "link") for on in grounds]
    pairs += [(ink, on) for ink in ("soft", "warn", "error", "accent") for on in grounds[:2]]
    for ink, on in [*pairs, ("on-accent", "accent")]:
        dark, light = sorted((_light(colours[ink]), _light(colours[on])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, on)


# -- forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "secured", "refused"),
    [
        # a page of ours, over https or on this machine
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:9090"}, False, ""),
        ({"sec-fetch-site": "none"}, False, ""),
        # another port of the same host is "same-site", and not ours
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:8080"}, False, "another site"),
        ({"sec-fetch-site": "cross-site", "origin": "http://evil.example"}, True, "another site"),
        # plain http to another machine: no Sec-Fetch-Site
        ({"host": "10.0.0.5:9090", "origin": "http://10.0.0.5:9090"}, False, ""),
        ({"host": "10.0.0.5", "origin": "http://10.0.0.5:80"}, False, ""),
        ({"host": "10.0.0.5:9090", "origin": "http://10.0.0.5:8080"}, True, "not sent by"),
        ({"host": "10.0.0.5:9090", "origin": "null"}, True, "not sent by"),
        ({"host": "10.0.0.5:9090", "origin": "http://[bad"}, True, "not sent by"),
        ({"host": "10.0.0.5:9090"}, True, "not sent by"),
        # a stranger's name that now says our address
        ({"host": "evil.example", "origin": "http://evil.example"}, False, "public host name"),
        ({"host": "evil.example", "origin": "http://evil.example"}, True, ""),
        ({"host": "labels.example", "sec-fetch-site": "same-origin",
          "origin": "https://labels.example"}, False, ""),
        ({"host": "gpu.lan:9090", "origin": "http://gpu.lan:9090"}, False, ""),
        ({"host": "[::1]:9090", "origin": "http://[::1]:9090"}, False, ""),
    ],
)  # fmt: skip
def test_only_forms_of_the_dashboards_own_pages_are_accepted(
    headers: dict[str, str], secured: bool, refused: str
) -> None:
    reason = explain_form_refusal({"host": "localhost:9090", **headers}, has_auth=secured)
    assert bool(reason) == bool(refused)
    assert refused in reason


def test_browsers_get_pages_and_programs_get_json(tmp_path: Path) -> None:
    make_full_home(tmp_path)

    async def ask(client: httpx.AsyncClient) -> None:
        assert (await client.get("/")).json()["projects"] == "/api/projects"
        html = await client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
        assert "projects/1" in html.text
        for path in ("/projects/1", "/projects/1/now", "/now", "/static/style.css"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert " style=" not in html.text + (await client.get("/projects/1")).text
        assert (await client.get("/projects/2")).status_code == 404
        assert (await client.get("/static/..%2fpages.py")).status_code == 404
        unknown = await client.get("/some/where", headers={"accept": "text/html"})
        assert (unknown.status_code, "There is no such page." in unknown.text) == (404, True)
        assert 'href="../static/style.css' in unknown.text
        assert (await client.get("/some/where")).json() == {"detail": "Not Found"}
        assert len((await client.get("/health")).json()["home"]) == 12

    served(tmp_path, ask)


def test_programs_can_cancel_and_cross_site_pages_cannot(tmp_path: Path) -> None:
    make_full_home(tmp_path)

    async def ask(client: httpx.AsyncClient) -> None:
        path = "/api/projects/1/cancel"
        for other in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            assert (await client.post(path, headers=other)).status_code == 403
        for own in ({}, {"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1"}):
            assert (await client.post(path, headers=own)).status_code == 200

    served(tmp_path, ask)


def test_only_thumbnails_of_connected_projects_are_served(tmp_path: Path) -> None:
    make_full_home(tmp_path)
    (tmp_path / "projects" / "1" / "token.jpg").write_text("secret")

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get("/projects/1/pictures/40.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8")
        for name in ("99", "..%2ftoken", "%2e%2e%2ftoken", "..%5ctoken", "."):
            assert (await client.get(f"/projects/1/pictures/{name}.jpg")).status_code == 404
        assert (await client.get("/projects/..%2f1/pictures/40.jpg")).status_code == 404
        assert (await client.get("/projects/7/pictures/40.jpg")).status_code == 404

    served(tmp_path, ask)


def test_forms_redirect_and_record_the_actor(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    ours, theirs = {"origin": "http://127.0.0.1"}, {"origin": "http://evil.example"}
    versions = VersionStore(tmp_path / "projects" / "1")

    async def ask(client: httpx.AsyncClient) -> None:
        for path in ("train", "cancel", "rollback", "promote/v0-0123abcd"):
            refused = await client.post(f"/projects/1/{path}", headers=theirs)
            assert refused.status_code == 403
            assert (await client.get(f"/projects/1/{path}")).status_code in (404, 405)
        assert versions.live() == shown.version
        done = await client.post("/projects/1/rollback", headers=ours)
        assert (done.status_code, done.headers["location"]) == (303, "../1?done=rollback")
        done = await client.post("/projects/1/promote/v5-0123abcd", headers=ours)
        assert (done.status_code, done.headers["location"]) == (303, "../../1?done=promote")
        missing = await client.post("/projects/1/promote/v9-nothing", headers=ours)
        assert missing.status_code == 404
        assert "There is no version" in missing.text
        await client.post("/projects/1/promote/v0-0123abcd", headers=ours)
        nowhere = await client.post("/projects/1/rollback", headers=ours)
        assert nowhere.status_code == 409
        assert "no older version" in nowhere.text

    served(tmp_path, ask)
    told = [(e.version, e.by, e.reason) for e in versions.history()[-3:]]
    assert told == [
        ("v3-0123abcd", "the dashboard", "rolled back by a person"),
        ("v5-0123abcd", "the dashboard", "promoted by a person"),
        ("v0-0123abcd", "the dashboard", "promoted by a person"),
    ]


SUSPECT = "control=plant&given=healthy&suggested=wilting"


def test_a_confirmed_label_is_not_listed_again(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    folder = tmp_path / "projects" / "1"
    form = "../projects/1/suspects/7/{}?control=plant&amp;given=healthy&amp;suggested=wilting"
    html = page(tmp_path, shown)
    for action in ("right", "change"):
        assert f'action="{form.format(action)}"' in html
    assert 'aria-label="Change to wilting: task 7"' in html

    async def ask(client: httpx.AsyncClient) -> None:
        ours = {"origin": "http://127.0.0.1"}
        path = "/projects/1/suspects/7"
        assert (await client.post(f"{path}/right?{SUSPECT}")).status_code == 403
        for other in (
            f"{path}/right?control=plant&given=healthy&suggested=dead",
            f"{path}/right?control=other&given=healthy&suggested=wilting",
            f"/projects/1/suspects/8/right?{SUSPECT}",
            f"/projects/2/suspects/7/right?{SUSPECT}",
        ):
            assert (await client.post(other, headers=ours)).status_code == 404, other
        assert (await client.post(f"{path}/drop?{SUSPECT}", headers=ours)).status_code == 422
        assert len(QueueFront(folder).label_errors().suspects) == 1
        done = await client.post(f"{path}/right?{SUSPECT}", headers=ours)
        assert (done.status_code, done.headers["location"]) == (303, "../../../1?done=right")

    served(tmp_path, ask)
    html = page(tmp_path, shown, "right")
    assert "The label is confirmed." in html
    assert "suspects/7/" not in html
    found = [
        StoredLabelError(7, "healthy", "dead", 0.1, "wrong label", "plant"),
        StoredLabelError(7, "wilting", "dead", 0.1, "wrong label", "plant"),  # it changed
        StoredLabelError(7, "healthy", "dead", 0.1, "wrong label", "leaf"),
        StoredLabelError(8, "healthy", "dead", 0.1, "wrong label", "plant"),
    ]
    assert ConfirmedLabels(folder).without_confirmed(found) == found[1:]
    for copy in folder.glob("confirmed_labels.json*"):
        copy.write_text("damaged")
    assert ConfirmedLabels(folder).without_confirmed(found) == found


def test_a_label_that_cannot_be_written_stays_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = make_full_home(tmp_path)
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")

    async def ask(client: httpx.AsyncClient) -> None:
        path = f"/projects/1/suspects/7/change?{SUSPECT}"
        failed = await client.post(path, headers={"origin": "http://127.0.0.1"})
        assert failed.status_code == 409
        assert "Action failed" in failed.text

    served(tmp_path, ask)
    assert "suspects/7/change" in page(tmp_path, shown)


def test_an_undone_change_is_listed_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = make_full_home(tmp_path)
    monkeypatch.setenv("PRELABEL_HOME", str(tmp_path))
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    folder = tmp_path / "projects" / "1"
    (suspect,) = QueueFront(folder).label_errors().suspects
    assert "Changed here" not in page(tmp_path, shown)
    changes = LabelChanges(folder)
    for task in range(100, 100 + MAX_LABEL_CHANGES):
        changes.add(LabelChange(replace(suspect, task=task), (1,)))
    changes.add(LabelChange(suspect, (3, 4)))
    assert [change.error.task for change in changes.all()] == [*range(101, 110), 7], "the last"
    html = page(tmp_path, shown)
    assert "healthy changed to wilting" in " ".join(text(html).split())
    form = "../projects/1/suspects/7/undo?control=plant&amp;given=healthy&amp;suggested=wilting"
    assert html.count(f'action="{form}"') == 1

    async def ask(client: httpx.AsyncClient) -> None:
        ours = {"origin": "http://127.0.0.1"}
        path = f"/projects/1/suspects/7/undo?{SUSPECT}"
        assert (await client.post(path)).status_code == 403
        unknown = path.replace("suspects/7", "suspects/8")
        assert (await client.post(unknown, headers=ours)).status_code == 404
        failed = await client.post(path, headers=ours)
        assert failed.status_code == 409, "Label Studio is away"

    served(tmp_path, ask)
    assert changes.find(suspect).annotations == (3, 4), "it can be undone later"
    QueueFront(folder).remove_label_error(suspect)
    QueueFront(folder).add_label_error(suspect)
    QueueFront(folder).add_label_error(suspect)
    assert QueueFront(folder).label_errors().suspects == (suspect,)
    (folder / "label_changes.json").write_text("damaged")
    assert "Changed here" not in page(tmp_path, shown)


def test_labels_that_were_not_checked_are_not_called_right(tmp_path: Path) -> None:
    shown = make_full_home(tmp_path)
    front = QueueFront(tmp_path / "projects" / "1")

    def told() -> str:
        html = page(tmp_path, shown)
        return text(html[html.index('id="h-suspects"') : html.index('id="try"')])

    assert "%" not in told()
    assert "wrong" not in told(), "a label to check may be right"
    front.save_label_errors(StoredLabelErrors())
    assert "checked about half a minute after a newly" in told()
    assert "No label to check was found" not in told()
    front.save_label_errors(StoredLabelErrors("v1", (), ("There are too few labels.",)))
    assert "There are too few labels." in told()
    assert "No label to check was found" not in told()
    front.save_label_errors(StoredLabelErrors("v1"))
    assert "No label to check was found" in told()


CHOICE = {"from_name": "plant", "to_name": "image", "type": "choices", "id": "a"}
BOX = {"from_name": "leaves", "type": "rectanglelabels", "value": {"x": 1}}
ONE = Control("plant", "image", "image", (Label("healthy"), Label("wilting")))
SEVERAL = replace(ONE, multiple=True)


@pytest.mark.parametrize(
    ("control", "given", "suggested", "before", "after"),
    [
        (ONE, "healthy", "wilting", ["healthy"], ["wilting"]),
        (ONE, "healthy", "wilting", ["wilting"], None),  # changed meanwhile
        (SEVERAL, "wilting", "not wilting", ["healthy", "wilting"], ["healthy"]),
        (SEVERAL, "wilting", "not wilting", ["wilting"], []),  # shown as an answer if stored empty
        (SEVERAL, "not wilting", "wilting", ["healthy"], ["healthy", "wilting"]),
        (SEVERAL, "not wilting", "wilting", ["wilting"], None),
    ],
)
def test_a_label_is_changed_and_the_rest_of_the_annotation_stays(
    control: Control, given: str, suggested: str, before: list[str], after: list[str] | None
) -> None:
    edit = suggested_edit(control, given, suggested)
    assert edit is not None
    result = edit.apply([BOX, {**CHOICE, "value": {"choices": before}}])
    if after is None:
        assert result is None
    else:
        choices = [{**CHOICE, "value": {"choices": after}}] if after else []
        assert result == [*choices, BOX]


def test_a_label_is_added_where_nothing_was_chosen() -> None:
    """Label Studio stores no item then; one of many must have the label that is replaced."""
    edit = suggested_edit(SEVERAL, "not wilting", "wilting")
    assert edit is not None
    added, box = edit.apply([BOX]) or []
    assert box == BOX
    assert len(added.pop("id")) == 10
    plain = {key: value for key, value in CHOICE.items() if key != "id"}
    assert added == {**plain, "value": {"choices": ["wilting"]}}
    for control, given, suggested in (
        (ONE, "healthy", "wilting"),
        (SEVERAL, "wilting", "not wilting"),
    ):
        other = suggested_edit(control, given, suggested)
        assert other is not None
        assert other.apply([BOX]) is None


def test_only_choices_of_the_config_are_written() -> None:
    assert suggested_edit(ONE, "healthy", "dead") is None
    assert suggested_edit(ONE, "dead", "healthy") is None
    assert suggested_edit(SEVERAL, "healthy", "wilting") is None
    assert suggested_edit(replace(ONE, kind="boxes"), "healthy", "wilting") is None


def test_a_page_without_a_version_does_not_reload(tmp_path: Path) -> None:
    """It reloads when the header of ``/now`` differs, which is empty without a version."""
    shown = make_project_status(version=None)
    assert 'data-version=""' in page(tmp_path, shown)
