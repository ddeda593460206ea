"""Do poisoned labels reach the live version? On scikit-learn's digits, by the product's own gate.

    uv run python -m benchmarks.label_poisoning [--seeds 20]

A project grows by rounds of ten labels in the order of the policy, its heads fitted as the product
does. Then labels come as they are, or with 30 % of them wrong: at random, or swapped between pairs
of labels. *One round*: so many at once. *Rounds of ten*: one after another, each one that was not
held back goes live and teaches the next head; the share of projects in which one was held back by
then. *Rare* leaves fewer of each digit than of the one before, down to 0.03.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.arrays import Ints
from backend.learning import quality_gate
from backend.learning.contradiction import Believed, Contradiction, Trust, contradiction
from backend.loop.evaluate.gate import EARLIER, GROWTH, WINDOW
from backend.loop.evaluate.past_versions import LEARNED
from backend.vision.heads.head import Head
from benchmarks.auto_accept import chosen, fitted, world

POISONED = 0.3
WAYS = ("clean", "random", "swapped")
BASES = (60, 100, 200)
"""Labels of the live version."""
ONCE = (30, 60)
"""Labels that come in one round."""
BATCH, BATCHES = 10, 4
AUDIT = 60
"""Images of each project that are never learned from."""
Key = tuple[int, str, str]
"""Labels of the live version, what came, and in which of WAYS."""


@dataclass
class Line:
    """A project: what was labeled in which order, and the versions of it.

    Attributes:
        x: (n, d) embeddings of all images.
        y: (n,) what they are.
        rows: labeled images, in the order of their labels.
        given: what was answered.
        heads: of each version, the live one last.
        ends: labels that each version saw.
    """

    x: npt.NDArray[np.float32]
    y: Ints
    rows: list[int]
    given: list[int]
    heads: list[Head] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def fit(self) -> None:
        """A new version, which goes live."""
        before = self.heads[-1] if self.heads else None
        self.heads.append(fitted(self.x, self.rows, np.array(self.given), before))
        self.ends.append(len(self.rows))

    def next(self, count: int) -> list[int]:
        """The images that the policy asks for."""
        free = sorted(set(range(AUDIT, len(self.x))) - set(self.rows))
        return chosen(self.x, free, self.rows, self.heads[-1], count)

    def label(self, came: list[int], said: Ints) -> None:
        self.rows = self.rows + came
        self.given = self.given + said.tolist()

    def copy(self) -> Line:
        return Line(self.x, self.y, self.rows, self.given, list(self.heads), list(self.ends))

    def doubted(self, seed: int) -> quality_gate.Verdict:
        """Return the gate's verdict on the latest labels, as the loop's gate asks for it."""
        found: list[tuple[str, Contradiction]] = []
        last = 0
        for number in reversed(range(len(self.ends))):
            came = len(self.rows) - self.ends[number]
            if found and came > WINDOW:
                break
            if came < GROWTH * last or self.ends[number] < LEARNED:
                continue
            last = came
            window = self._believed(number, self.ends[number], len(self.rows))
            rng = np.random.default_rng(seed)
            found.append((f"v{number}", contradiction(window, self._trust(number), rng)))
        return quality_gate.trusted(found)

    def _trust(self, number: int) -> Trust:
        parts: list[Believed] = []
        for one in reversed(range(number)):
            if self.ends[one] >= LEARNED and sum(part.images for part in parts) < EARLIER:
                parts.append(self._believed(one, self.ends[one], self.ends[one + 1]))
        return Trust.learned(Believed.all_of(parts)) if parts else Trust()

    def _believed(self, number: int, start: int, end: int) -> Believed:
        belief = self.heads[number].probabilities(self.x[self.rows[start:end]])
        return Believed.of_one(belief, self.given[start:end], range(end - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    for setting in ("digits", "rare digits"):
        table(setting, options.seeds)


def table(setting: str, seeds: int) -> None:
    """Shares of rounds or projects that were held back."""
    held: dict[Key, list[bool]] = defaultdict(list)
    for seed in range(1, seeds + 1):
        for key, one in played(setting, seed):
            held[key].append(one)
    print(f"\n{setting}, seeds 1 to {seeds}: held back")
    print(f"{'labels':>7} {'':<22}" + "".join(f"{way:>9}" for way in WAYS))
    for base, what, _ in [key for key in held if key[2] == "clean"]:
        cells = [held.get((base, what, way)) for way in WAYS]
        told = "".join(f"{np.mean(cell):>9.0%}" if cell else f"{'':>9}" for cell in cells)
        print(f"{base or '':>7} {what:<22}{told}", flush=True)


def played(setting: str, seed: int) -> Iterator[tuple[Key, bool]]:
    """One project; what was held back, and whether."""
    x, y = world(setting, seed)
    random = np.random.default_rng(seed)
    first = random.choice(np.arange(AUDIT, len(x)), 2 * BATCH, replace=False).tolist()
    line = Line(x, y, first, y[first].tolist())
    line.fit()
    while True:
        base = len(line.rows)
        if base in BASES:
            yield from at_once(line, seed, random)
            yield from streams(line, seed, random)
        if base >= max(BASES):
            return
        came = line.next(BATCH)
        line.label(came, y[came])
        yield (0, "every round from 20 on", "clean"), not line.doubted(seed).promote
        line.fit()


def at_once(line: Line, seed: int, random: np.random.Generator) -> Iterator[tuple[Key, bool]]:
    for more in ONCE:
        came = line.next(more)
        for way in WAYS:
            one = line.copy()
            one.label(came, poisoned(one.y[came], way, random))
            key = (len(line.rows), f"one round of {more}", way)
            yield key, not one.doubted(seed).promote


def streams(line: Line, seed: int, random: np.random.Generator) -> Iterator[tuple[Key, bool]]:
    for way in WAYS:
        one, stopped = line.copy(), False
        for number in range(1, BATCHES + 1):
            came = one.next(BATCH)
            one.label(came, poisoned(one.y[came], way, random))
            stopped = stopped or not one.doubted(seed).promote
            yield (len(line.rows), f"rounds of ten, by {number}", way), stopped
            if not stopped:
                one.fit()


def poisoned(given: Ints, way: str, random: np.random.Generator) -> Ints:
    """Answers with POISONED of them wrong: at random, or swapped between pairs of labels."""
    said, wrong = given.copy(), round(POISONED * len(given))
    if way == "random":
        at = random.choice(len(said), wrong, replace=False)
        said[at] = (said[at] + random.integers(1, 10, len(at))) % 10
    elif way == "swapped":
        partner = np.zeros(10, dtype=np.int64)
        for one, other in random.permutation(10).reshape(5, 2):
            partner[one], partner[other] = other, one
        pairs = np.minimum(said, partner[said])
        at = np.argsort(random.permutation(10)[pairs], kind="stable")[:wrong]
        said[at] = partner[said[at]]
    return said


if __name__ == "__main__":
    main()
