"""A head on disk: whole, or one sentence about the damage."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from backend.errors import StoreError
from backend.vision.heads.head import Head, load_head, save_head


def saved(folder: Path) -> Head:
    weight = np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
    head = Head(
        labels=("кот", "dog", "a/b", 'q"'),
        multiple=True,
        weight=weight,
        bias=np.array([0.5, -1, 0, -1e4], np.float32),
        temperature=1.25,
        ridge=0.07,
        ridge_from="cross-validation",
        temperature_from="out-of-fold",
        anchored="text",
        examples=60,
    )
    save_head(head, folder)
    return head


def test_a_saved_head_loads_unchanged(tmp_path: Path) -> None:
    head, back = saved(tmp_path), load_head(tmp_path)
    for field in dataclasses.fields(head):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(head, field.name))
    assert back.weight.dtype == np.float32
    assert isinstance(back.labels, tuple)


def rewritten(name: str, value: object) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        rest = json.loads((folder / "head.json").read_text("utf-8"))
        (folder / "head.json").write_text(json.dumps(rest | {name: value}), "utf-8")

    return rewrite


def rearranged(**arrays: npt.NDArray[np.generic]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        path = folder / "head.safetensors"
        save_file(load_file(path) | arrays, path)

    return rewrite


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no arrays": lambda f: (f / "head.safetensors").unlink(),
    "no json": lambda f: (f / "head.json").unlink(),
    "arrays cut": lambda f: (f / "head.safetensors").write_bytes(
        (f / "head.safetensors").read_bytes()[:-9]
    ),
    "arrays are something else": lambda f: (f / "head.safetensors").write_bytes(b"\x80\x04K*."),
    "json cut": lambda f: (f / "head.json").write_text('{"labels": ["a"'),
    "json is no text": lambda f: (f / "head.json").write_bytes(b"\xff\xfe\x00"),
    "json is a list": lambda f: (f / "head.json").write_text("[]"),
    "a number of examples that is no number": rewritten("examples", "many"),
    "a label too few": rewritten("labels", ["a", "b", "c"]),
    "labels that are numbers": rewritten("labels", [1, 2, 3, 4]),
    "labels that are nothing": rewritten("labels", None),
    "one of many or several, nobody knows": rewritten("multiple", "no"),
    "a temperature of zero": rewritten("temperature", 0),
    "a temperature that is no number": rewritten("temperature", "warm"),
    "a temperature without end": rewritten("temperature", math.inf),
    "a weight that is not finite": rearranged(weight=np.full((4, 48), np.nan, "f4")),
    "a bias that is not finite": rearranged(bias=np.full(4, np.inf, "f4")),
    "weights of other shape": rearranged(weight=np.zeros((3, 48), "f4")),
    "weights of other precision": rearranged(weight=np.zeros((4, 48), "f8")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_head_raises_one_sentence(damage: str, tmp_path: Path) -> None:
    saved(tmp_path)
    DAMAGES[damage](tmp_path)
    with pytest.raises(StoreError) as caught:
        load_head(tmp_path)
    text = str(caught.value)
    assert "damaged" in text
    assert "roll back" in text
    assert "\n" not in text


def test_a_field_of_a_newer_release_is_ignored(tmp_path: Path) -> None:
    saved(tmp_path)
    expected = load_head(tmp_path)
    rewritten("colour", "red")(tmp_path)
    assert load_head(tmp_path).labels == expected.labels


def test_a_missing_folder_raises_one_sentence(tmp_path: Path) -> None:
    head = saved(tmp_path)
    with pytest.raises(StoreError, match="cannot be written"):
        save_head(head, tmp_path / "missing")
