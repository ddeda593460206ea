"""Export a version as a folder that runs without Prelabel: ONNX files and an example program."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain import Control
from backend.errors import EncoderError, PrelabelError
from backend.estimate import format_audit_progress, format_interval, format_percent
from backend.inference.detections import published_threshold
from backend.inference.model import MULTIPLE_LABEL_THRESHOLD, Model
from backend.json_records import to_json
from backend.runtime.project_session import ProjectSession
from backend.runtime.resources import Resources
from backend.settings import Settings
from backend.store.files import write_json, write_text
from backend.store.projects import ProjectRecord
from backend.store.versions import VersionCard
from backend.tools.output_folder import check_empty_folder, write_output_folder

if TYPE_CHECKING:
    from backend.vision.encoders.base import Encoder

ENCODER_FILE = "encoder.onnx"
PROGRAMS_FOLDER = Path(__file__).with_name("exported")
README_TEMPLATE = """# {title}, version {version}

Exported from Prelabel. It needs only `numpy`, `pillow` and `onnxruntime`:

```sh
pip install numpy pillow onnxruntime
{commands}
```

{kinds}

{figure}

`model.json` contains the labels, their confidence thresholds, and the preprocessing of images.
Input images are rotated according to EXIF, RGB, 0 to 1, channels first. The predictions are the
same as those of Prelabel's endpoint, except for the third digit if it runs in lower precision.
{left_out}"""


@dataclass(frozen=True)
class ExportedVersion:
    """The exported files.

    Attributes:
        folder: folder that contains the files.
        files: paths relative to the folder.
        left_out: control → reason why it could not be exported.
    """

    folder: Path
    files: tuple[str, ...]
    left_out: Mapping[str, str]


def export_version(
    settings: Settings, record: ProjectRecord, version: str, folder: Path
) -> ExportedVersion:
    """Export a version as ONNX.

    Args:
        settings: settings with the home folder.
        record: project of the version.
        version: name of the version.
        folder: new or empty folder.

    Raises:
        UsageError: the folder is not empty.
        NotFoundError: the version does not exist.
        PrelabelError: no control of the version can be exported.
        StoreError: the folder cannot be written.
    """
    folder = folder.expanduser()
    check_empty_folder(folder)
    resources = Resources(settings)
    session = ProjectSession(resources, record)
    card = session.versions.card(version)
    model = session.model(version)
    setting = card.encoder.setting
    encoder = resources.encoder(setting) if setting and model.heads else None
    writer = _VersionWriter(card, record.title, model, encoder)
    files = write_output_folder(folder, writer.write_files)
    return ExportedVersion(folder, files, writer.left_out)


class _VersionWriter:
    def __init__(
        self, card: VersionCard, title: str, model: Model, encoder: Encoder | None
    ) -> None:
        self._card = card
        self._title = title
        self._model = model
        self._encoder = encoder
        self.left_out: dict[str, str] = {}

    def write_files(self, folder: Path) -> None:
        """Write the ONNX files, ``model.json``, example programs and README."""
        image = self._write_encoder(folder)
        controls = []
        for index, control in enumerate(self._model.controls):
            try:
                controls.append(
                    self._write_control(folder, control, _file_name(control, index), image)
                )
            except PrelabelError as error:
                self.left_out[control.name] = str(error)
        if not controls:
            reasons = " ".join(self.left_out.values())
            raise PrelabelError(f"No control of {self._card.version} can be exported. {reasons}")
        kinds = {control["kind"] == "choices" for control in controls}
        write_json(
            folder / "model.json", self._model_facts(controls, image if True in kinds else {})
        )
        programs = _example_programs(kinds)
        for name, program in programs.items():
            shutil.copyfile(PROGRAMS_FOLDER / program, folder / name)
        write_text(folder / "README.md", self._render_readme(controls, programs))

    def _write_encoder(self, folder: Path) -> dict[str, Any]:
        """Write the encoder and return its file and preprocessing; {} if there is none."""
        from backend.vision.encoders.base import SupportsExport
        from backend.vision.onnx.export import write_onnx

        if self._encoder is None:
            return {}
        try:
            if not isinstance(self._encoder, SupportsExport):
                raise EncoderError(f"{self._encoder.name} cannot be exported.")
            portable = self._encoder.to_portable()
            write_onnx(portable.graph, folder / ENCODER_FILE)
        except PrelabelError as error:
            head_controls = [c.name for c in self._model.controls if c.name in self._model.heads]
            self.left_out |= dict.fromkeys(head_controls, str(error))
            return {}
        return {
            "encoder": ENCODER_FILE,
            "name": self._encoder_name(),
            **asdict(portable.preprocessing),
        }

    def _write_control(
        self, folder: Path, control: Control, file: str, image: Mapping[str, Any]
    ) -> dict[str, Any]:
        if control.name in self._model.heads and image:
            return self._write_head(folder, control, file)
        if control.name in self._model.detectors:
            return self._write_detector(folder, control, file)
        raise PrelabelError(self.left_out.get(control.name, "The control has no model yet."))

    def _write_head(self, folder: Path, control: Control, file: str) -> dict[str, Any]:
        from backend.vision.onnx.export import write_onnx
        from backend.vision.onnx.networks import build_head_graph

        head = self._model.heads[control.name]
        write_onnx(build_head_graph(head), folder / file)
        return {
            "name": control.name,
            "kind": "choices",
            "multiple": control.multiple,
            "file": file,
            "labels": list(head.labels),
            "shown": self._label_thresholds(control, head.labels),
        }

    def _label_thresholds(self, control: Control, labels: Sequence[str]) -> dict[str, float]:
        """Return label → minimum confidence of a published prediction."""
        thresholds_by_label = self._model.thresholds.get(control.name, {})
        default_threshold = MULTIPLE_LABEL_THRESHOLD if control.multiple else 0.0
        return {name: max(thresholds_by_label.get(name, 0.0), default_threshold) for name in labels}

    def _write_detector(self, folder: Path, control: Control, file: str) -> dict[str, Any]:
        from backend.vision.detection.network import QUERY_FAMILY
        from backend.vision.detection.probe_detector import ProbeDetector
        from backend.vision.detection.trained_detector import TrainedDetector
        from backend.vision.onnx.export import write_onnx
        from backend.vision.onnx.networks import build_detector_graph

        detector = self._model.detectors[control.name]
        if isinstance(detector, ProbeDetector):
            raise PrelabelError(
                f"{control.name} has a quick detector, which cannot be exported: wait for the full "
                "training, or name an earlier version."
            )
        if not isinstance(detector, TrainedDetector):
            raise PrelabelError(
                f"{control.name} uses an open-vocabulary network (YOLOE), which is not part of the "
                "version: label a few images, so that a detector is trained."
            )
        class_mapping = detector.class_mapping
        write_onnx(build_detector_graph(detector), folder / file)
        return {
            "name": control.name,
            "kind": control.kind,
            "file": file,
            "labels": list(class_mapping.labels),
            "shown": published_threshold(self._model, control),
            "size": class_mapping.size,
            "cell": detector.network.stride,
            "square": detector.network.spec.family == QUERY_FAMILY,
            "sides": [class_mapping.sides.get(name, 0.0) for name in class_mapping.labels],
        }

    def _model_facts(self, controls: list[dict[str, Any]], image: dict[str, Any]) -> dict[str, Any]:
        card = self._card
        return {
            "title": self._title,
            "version": card.version,
            "created": card.created,
            "labels": to_json(card.labels),
            "audit": card.audit.to_json(),
            "image": image,
            "controls": controls,
        }

    def _render_readme(self, controls: list[dict[str, Any]], programs: Mapping[str, str]) -> str:
        audit = self._card.audit
        figure = (
            "It was too early to tell its accuracy at the time of the export: "
            f"{format_audit_progress(audit)}."
        )
        if audit.is_conclusive and audit.value is not None:
            figure = (
                f"On {_count_images(audit.n)} outside the training data, its {audit.metric} was "
                f"{format_percent(audit.value)} ({format_interval(audit)})."
            )
        rows = [
            f"- `{control['file']}`: {control['name']}, {control['kind']}: "
            f"{_shorten_labels(control['labels'])}"
            for control in controls
        ]
        if any(control["kind"] == "choices" for control in controls):
            rows.insert(0, f"- `{ENCODER_FILE}`: image → embedding ({self._encoder_name()})")
        reasons = [f"- {name}: {reason}" for name, reason in self.left_out.items()]
        return README_TEMPLATE.format(
            title=self._title or "Model",
            version=self._card.version,
            commands="\n".join(f"python {name} IMAGE..." for name in programs),
            kinds="\n".join(rows),
            figure=figure,
            left_out="\n".join(["", "Left out:", "", *reasons, ""]) if reasons else "",
        )

    def _encoder_name(self) -> str:
        """Return the encoder's name, without the folder if it is a file of this machine."""
        name = self._encoder.name if self._encoder else ""
        return Path(name).name if name.endswith((".pt", ".safetensors", ".bin")) else name


def _file_name(control: Control, index: int) -> str:
    """Return a portable file name for a control."""
    safe_name = re.sub(r"[^A-Za-z0-9_-]+", "-", control.name).strip("-")
    return f"{safe_name or 'control'}-{index}.onnx"


def _example_programs(kinds: set[bool]) -> dict[str, str]:
    """Return exported file name → source file of the example programs.

    Args:
        kinds: True for controls of choices, False for controls of regions.
    """
    if kinds == {True, False}:
        return {"example.py": "choices.py", "example_regions.py": "regions.py"}
    return {"example.py": "choices.py" if True in kinds else "regions.py"}


def _count_images(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"


def _shorten_labels(labels: list[str]) -> str:
    shortened = ", ".join(labels[:12])
    return f"{shortened}, and {len(labels) - 12} more" if len(labels) > 12 else shortened
