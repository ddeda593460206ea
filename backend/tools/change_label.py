"""Change a label in Label Studio, because a person asked for it on the dashboard."""

from __future__ import annotations

from collections.abc import Collection

from backend.errors import UsageError
from backend.label_studio.choice_edit import suggested_edit
from backend.label_studio.json_values import read_objects
from backend.label_studio.labeling_config import read_config
from backend.runtime.project_session import ProjectSession


def change_label(
    session: ProjectSession,
    task: int,
    control: str,
    given: str,
    suggested: str,
    annotations: Collection[int] = (),
) -> list[int]:
    """Replace a label in every annotation of a task that has it.

    Label Studio records the owner of the token as the user who updated the annotations.

    Args:
        session: the project's session.
        task: id of the task.
        control: name of a control of choices.
        given: the annotated label.
        suggested: the new label; both as in a probable label error.
        annotations: ids of the only annotations to change; all of the task if empty.

    Returns:
        the ids of the changed annotations.

    Raises:
        UsageError: no annotation has this label any more, or the control has changed.
        LabelStudioError: Label Studio rejected the change or is unreachable.
    """
    client = session.connection.client
    config = read_config(client.get_project(session.number)["label_config"])
    served = {one.name: one for one in config.controls}
    edit = suggested_edit(served[control], given, suggested) if control in served else None
    if edit is None:
        raise UsageError(f"The label of task {task} can only be changed in Label Studio.")
    changed_ids = []
    for annotation in client.task_annotations(task):
        result = edit.apply(read_objects(annotation, "result"))
        id = int(annotation["id"])
        is_included = not annotations or id in annotations
        if result is not None and is_included and not annotation.get("was_cancelled"):
            client.update_annotation(id, result)
            changed_ids.append(id)
    if not changed_ids:
        raise UsageError(f"The label of task {task} has changed: open the task.")
    return changed_ids
