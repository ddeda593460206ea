"""Old predictions go a little at a time, whatever else happens to them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from backend.loop.publish.retire import PredictionCleanup

OURS = ("v2-x", "v1-x", "v0-x")


@dataclass
class Shelf:
    """A Label Studio that is slow at listing: 24 predictions of ours and of somebody else."""

    listed: int = 0

    def __post_init__(self) -> None:
        self.there = {id: (*OURS, "theirs")[id % 4] for id in range(24)}

    def prediction_counts(self, number: int) -> dict[str, int]:
        names = list(self.there.values())
        return {name: names.count(name) for name in set(names)}

    def prediction_tasks(self, number: int, *versions: str) -> dict[int, int]:
        self.listed += 1
        time.sleep(0.05)
        return {id: 100 + id for id, name in self.there.items() if name in versions}

    def delete_prediction(self, id: int) -> None:
        del self.there[id]

    def versions(self) -> list[str]:
        return sorted(set(self.there.values()))


def test_slow_listing_does_not_keep_predictions_from_being_removed() -> None:
    """Or it is done again and again, for ever, while people label."""
    shelf = Shelf()
    retirement, turns = PredictionCleanup(shelf, 3), 0
    while turns == 0 or retirement.remaining:
        touched = retirement.remove("v2-x", OURS, seconds=0.001)
        assert touched, "at least one in each turn"
        turns += 1
        assert turns <= 12
    assert shelf.listed == 1, "once for all turns"
    assert shelf.versions() == ["theirs", "v2-x"]
    assert retirement.remove("v2-x", OURS, seconds=0) == set()
    assert shelf.listed == 1, "where nothing is old nothing is listed"


def test_what_went_live_again_meanwhile_stays() -> None:
    shelf = Shelf()
    retirement = PredictionCleanup(shelf, 3)
    (gone,) = retirement.remove("v2-x", OURS, seconds=0)
    assert gone - 100 not in shelf.there, "the task of the one that went"
    while retirement.remaining:
        retirement.remove("v1-x", OURS, seconds=60)
    assert shelf.versions() == ["theirs", "v1-x"]
    assert list(shelf.there.values()).count("v1-x") >= 5
