"""Networks: read, made, fitted to other classes, kept; and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import DetectorError
from backend.vision.detection.network import (
    GRID_FAMILY,
    NETWORK_SPEC_FILE,
    QUERY_FAMILY,
    SMALL_NETWORK_FILE,
    WEIGHTS_FILE,
    DetectionNetwork,
    adapt_classes,
    find_base_weights,
    load_base_network,
    load_network,
    save_network,
)
from tests.support.drawings import SHAPE_LABELS
from tests.support.tiny_networks import raw_outputs, save_pretrained_network


@pytest.mark.parametrize(("name", "bins"), [("yolo26n.yaml", 1), ("yolo11n.yaml", 16)])
def test_published_descriptions_are_built_by_name(name: str, bins: int, tmp_path: Path) -> None:
    path = find_base_weights(name, tmp_path, download=False)
    assert path is not None
    network = load_base_network(path)
    assert (network.spec.family, network.spec.pretrained, network.stride) == (
        GRID_FAMILY,
        False,
        32,
    )
    distances, logits = raw_outputs(network)
    cells = 12 * 12 + 6 * 6 + 3 * 3
    assert distances.shape == (1, 4 * bins, cells)
    assert logits.shape == (1, 1, cells)
    # The head that needs no suppression is left out.
    assert not any("one2one" in part for part, _ in network.module.named_modules())


def test_an_untrained_network_is_reproducible_and_keeps_the_random_state() -> None:
    import torch

    torch.manual_seed(11)
    first = load_base_network(SMALL_NETWORK_FILE)
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), drawn)
    for one, other in zip(
        raw_outputs(first), raw_outputs(load_base_network(SMALL_NETWORK_FILE)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_small_network_has_strides_8_and_16() -> None:
    network = load_base_network(SMALL_NETWORK_FILE)
    assert network.module.stride.tolist() == [8, 16]
    assert sum(p.numel() for p in network.module.parameters()) < 600_000


def test_an_rtdetr_returns_a_box_and_class_confidences_per_query(
    rtdetr: DetectionNetwork,
) -> None:
    assert rtdetr.spec.family == QUERY_FAMILY
    places, confidence = raw_outputs(rtdetr)
    assert places.shape == (1, 20, 4)
    assert confidence.shape == (1, 20, len(SHAPE_LABELS))
    for values in (places, confidence):
        assert values.min() >= 0
        assert values.max() <= 1


def test_a_saved_network_has_the_same_outputs(
    rtdetr: DetectionNetwork, yolo26_like: DetectionNetwork, tmp_path: Path
) -> None:
    for number, network in enumerate((rtdetr, yolo26_like)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_network(network, folder)
        again = load_network(folder)
        assert again.spec == network.spec
        assert sorted(path.name for path in folder.iterdir()) == [NETWORK_SPEC_FILE, WEIGHTS_FILE]
        for one, other in zip(raw_outputs(again), raw_outputs(network), strict=True):
            assert np.abs(one - other).max() < 0.005 * np.abs(other).max()


def test_class_weights_follow_the_class_name(tmp_path: Path) -> None:
    base = save_pretrained_network(("star", "Disc", "square"), tmp_path / "three.pt")
    assert base.spec.classes == ("star", "Disc", "square")
    assert base.spec.pretrained
    before = raw_outputs(base)
    for classes in (("disc", "ring"), ("ring", "square", "disc"), ("square", "disc", "a", "b")):
        after = raw_outputs(adapt_classes(base, classes))
        np.testing.assert_allclose(after[0], before[0], atol=1e-4)
        for row, name in enumerate(classes):
            known = {"disc": 1, "square": 2}.get(name)
            if known is not None:
                np.testing.assert_allclose(after[1][0, row], before[1][0, known], atol=1e-4)


def test_a_new_class_starts_from_the_same_random_weights_each_time(tmp_path: Path) -> None:
    """Also where there are as many classes as before."""
    import torch

    base = save_pretrained_network(("cat", "dog"), tmp_path / "two.pt")
    before = raw_outputs(base)[1][0]
    torch.manual_seed(1)
    renamed = raw_outputs(adapt_classes(base, ("bird", "cow")))[1][0]
    torch.manual_seed(2)
    np.testing.assert_array_equal(renamed, raw_outputs(adapt_classes(base, ("bird", "cow")))[1][0])
    for row in renamed:
        assert min(np.abs(row - old).max() for old in before) > 0.1


def test_numeric_class_names_keep_their_weights(tmp_path: Path) -> None:
    base = save_pretrained_network(("0", "1"), tmp_path / "two.pt")
    before = raw_outputs(base)[1][0]
    after = raw_outputs(adapt_classes(base, ("1", "0", "2")))[1][0]
    np.testing.assert_allclose(after[:2], before[::-1], atol=1e-4)


def test_class_weights_can_come_from_a_donor_network(tmp_path: Path) -> None:
    base = save_pretrained_network(("cat", "dog", "cow"), tmp_path / "three.pt")
    fitted = adapt_classes(base, ("cat",))
    more = adapt_classes(fitted, ("Dogs", "cat", "ring"), donor=base, donor_classes={0: 1})
    before, after = raw_outputs(base)[1][0], raw_outputs(more)[1][0]
    np.testing.assert_allclose(after[0], before[1], atol=1e-4)
    np.testing.assert_allclose(after[1], before[0], atol=1e-4)
    assert more.spec.classes == ("Dogs", "cat", "ring")


def test_class_weights_of_an_rtdetr_follow_the_class_name(rtdetr: DetectionNetwork) -> None:
    swapped = adapt_classes(rtdetr, ("square", "disc"))
    before, after = raw_outputs(rtdetr), raw_outputs(swapped)
    np.testing.assert_allclose(after[0], before[0], atol=1e-4)
    np.testing.assert_allclose(after[1][..., ::-1], before[1], atol=1e-4)


def test_a_network_with_fewer_classes_than_its_base_can_be_saved(tmp_path: Path) -> None:
    """Ultralytics' class branch is as wide as the number of classes was: 80, else 64 here."""
    base = save_pretrained_network(
        tuple(f"class {number}" for number in range(80)), tmp_path / "many.pt"
    )
    fitted = adapt_classes(base, ("class 7", "other"))
    assert fitted.module.model[-1].cv3[0][-1].in_channels == 80
    save_network(fitted, tmp_path)
    for one, other in zip(raw_outputs(load_network(tmp_path)), raw_outputs(fitted), strict=True):
        assert np.abs(one - other).max() < 0.005 * np.abs(other).max()


def test_the_other_layers_are_unchanged_when_classes_change(tmp_path: Path) -> None:
    base = save_pretrained_network(("a", "b"), tmp_path / "two.pt")
    other = adapt_classes(base, ("c",))
    assert other.spec == replace(base.spec, classes=("c",), yaml=other.spec.yaml)
    assert base.spec.classes == ("a", "b")
    assert base.spec.base.startswith("two.pt:")


# -- refused ---------------------------------------------------------------------------------


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def refused(path: Path) -> str:
    with pytest.raises(DetectorError) as caught:
        load_base_network(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 420
    assert text.endswith(".")
    return text


def test_a_classifier_is_refused(tiny_yolo: Path) -> None:
    assert "is not a detection network" in refused(tiny_yolo)


def test_files_that_are_not_weights_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.pt"
    text.write_text("not weights", encoding="utf-8")
    empty = tmp_path / "empty.pt"
    empty.touch()
    for path in (text, empty):
        assert "cannot be read safely" in refused(path)
    assert "There is no file" in refused(tmp_path / "missing.pt")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    import torch

    marker = tmp_path / "marker"
    zipped, plain = tmp_path / "zipped.pt", tmp_path / "plain.pt"
    torch.save({"model": Evil(marker), "train_args": {}}, zipped)
    plain.write_bytes(pickle.dumps(Evil(marker)))
    for path in (zipped, plain):
        refused(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    ["", "nc: 3\n", "[1, 2]", "backbone: [\n", "nc: 1\nbackbone: []\nhead: []\n"],
)
def test_descriptions_without_a_network_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text, encoding="utf-8")
    refused(path)


def test_a_description_with_an_unknown_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        SMALL_NETWORK_FILE.read_text(encoding="utf-8").replace("SPPF", "SPPX"), encoding="utf-8"
    )
    refused(path)


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    for setting in ("yolo", "nowhere/yolo26n.pt", "weights.onnx", "nowhere/yolo26n.yaml"):
        with pytest.raises(DetectorError, match="There is no detector"):
            find_base_weights(setting, tmp_path, download=False)
    assert find_base_weights("builtin", tmp_path, download=False) == SMALL_NETWORK_FILE
    assert find_base_weights("yolo26n.pt", tmp_path, download=False) is None
    (tmp_path / "yolo26n.pt").touch()
    assert find_base_weights("yolo26n.pt", tmp_path, download=False) == tmp_path / "yolo26n.pt"


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[: len(content) // 2])


def other_classes(folder: Path) -> None:
    stored = json.loads((folder / NETWORK_SPEC_FILE).read_text(encoding="utf-8"))
    (folder / NETWORK_SPEC_FILE).write_text(
        json.dumps({**stored, "classes": ["a", "b"]}), encoding="utf-8"
    )


DAMAGE = {
    "cut weights": cut,
    "no weights": lambda folder: (folder / WEIGHTS_FILE).unlink(),
    "no shape": lambda folder: (folder / NETWORK_SPEC_FILE).unlink(),
    "no json": lambda folder: (folder / NETWORK_SPEC_FILE).write_text("{", encoding="utf-8"),
    "a list": lambda folder: (folder / NETWORK_SPEC_FILE).write_text("[]", encoding="utf-8"),
    "other classes": other_classes,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_raises_a_clear_error(damage: Any, tmp_path: Path) -> None:
    save_network(adapt_classes(load_base_network(SMALL_NETWORK_FILE), ("object",)), tmp_path)
    damage(tmp_path)
    with pytest.raises(DetectorError, match=r"is damaged .*train again"):
        load_network(tmp_path)


def test_a_saved_network_is_described_without_torch(tmp_path: Path) -> None:
    save_network(adapt_classes(load_base_network(SMALL_NETWORK_FILE), ("object",)), tmp_path)
    program = (
        "import sys; from pathlib import Path; "
        "from backend.vision.detection.network import load_network; "
        "network = load_network(Path(sys.argv[1])); "
        "print(network.spec.classes, network.strides, network.stride, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('object',) (8, 16) 32 False"


def test_a_saved_network_outlives_its_folder(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    save_network(load_base_network(SMALL_NETWORK_FILE), tmp_path / "saved")
    loaded = load_network(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved")
    assert loaded.module.state_dict()


def test_a_network_of_an_early_release_without_a_digest_is_loaded(tmp_path: Path) -> None:
    network = adapt_classes(load_base_network(SMALL_NETWORK_FILE), ("object",))
    save_network(network, tmp_path)
    stored = json.loads((tmp_path / NETWORK_SPEC_FILE).read_text(encoding="utf-8"))
    del stored["digest"], stored["strides"]
    (tmp_path / NETWORK_SPEC_FILE).write_text(json.dumps(stored), encoding="utf-8")
    assert load_network(tmp_path).strides == network.strides
