"""The code blocks of the project's documents, and how each is run or checked.

Shell blocks run in bash, with a real Label Studio, backend and endpoint. What stands for something
of the reader's own is replaced first:

| in the documents | becomes |
|---|---|
| ``http://localhost:8080``, ``https://label.example.com`` | Label Studio's address |
| ``http://localhost:9090`` | the backend's |
| ``http://localhost:9091`` | the endpoint's |
| ``LABEL_STUDIO_API_KEY=…`` | its token |
| ``PRELABEL_PASSWORD=…`` | a password |
| ``v4-1f0c77a2``, and any other; ``VERSION`` | the live version of project 3 |
| ``4711`` | a task of it |
| ``PROJECT``, ``IMAGE``, ``NAME`` | ``3``, ``plant.jpg``, ``greenhouse`` |
| ``$KEY`` | a key of the endpoint, from the environment |

Programs that cannot run here, or not for so long, are stood in for by ``tests/stand_ins.py``: it
checks that the command and its options exist. Servers start, answer once and end.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"`(?:uv run )?prelabel ([a-z][^`…]*)`")
"""A command of ours within a sentence."""
LEFT_OUT = "…"


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        file: of which document.
        line: its first.
        language: after the fence.
        text: what it holds.
        comes_back: the JSON that the document shows right after it, as it stands there.
    """

    file: str
    line: int
    language: str
    text: str
    comes_back: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.language or 'text'}"

    @property
    def refused(self) -> bool:
        """Whether it shows how something is refused."""
        shown = like_json(self.comes_back) if self.comes_back else {}
        return isinstance(shown, dict) and str(shown.get("type")).startswith("urn:prelabel:")


def blocks() -> list[Block]:
    """All fenced blocks of the README and the documents, in order."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [block for file in files for block in blocks_of(file)]


def blocks_of(file: Path) -> list[Block]:
    """The fenced blocks of one document."""
    text, found = file.read_text(encoding="utf-8"), []
    matches = list(FENCE.finditer(text))
    name = str(file.relative_to(ROOT))
    for match, after in zip_longest(matches, matches[1:]):
        indent = len(match["indent"])
        body = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        at_once = after and not text[match.end() : after.start()].strip()
        shown = after["text"] if at_once and after["language"] == "json" else ""
        line = text[: match.start()].count("\n") + 1
        found.append(Block(name, line, match["language"], body, shown))
    return found


def commands(text: str) -> list[str]:
    """The commands of ours that sentences name, without the program's name.

    Example:
        >>> commands("See `prelabel status` and `uv run prelabel train 3`, or `prelabel …`.")
        ['status', 'train 3']
    """
    return COMMAND.findall(FENCE.sub("", text))


def like_json(text: str) -> Any:
    """JSON in which an ellipsis stands for more of the same.

    Example:
        >>> like_json('{"a": [1, …], "b": {…}, "c": …, …}')
        {'a': [1], 'b': {}, 'c': None}
    """
    bare = re.sub(r",\s*…|…\s*,(?=\s*[\"\]\[{}])", "", text)
    bare = re.sub(r":\s*…", ": null", bare)
    return json.loads(bare.replace(LEFT_OUT, ""))


def missing(shown: Any, real: Any, where: str = "") -> list[str]:
    """What a document shows and the program does not say: keys, and kinds of values.

    Example:
        >>> missing({"a": 1, "b": {"c": "x"}}, {"a": 2.5, "b": {}})
        ['b.c']
        >>> missing([{"a": "x"}], [{"a": 1}])
        ['0.a: a str, not a int']
    """
    if isinstance(shown, dict):
        if not isinstance(real, dict):
            return [f"{where}: an object"]
        found = []
        for key, value in shown.items():
            at = f"{where}.{key}".lstrip(".")
            found += missing(value, real[key], at) if key in real else [at]
        return found
    if isinstance(shown, list):
        pairs = list(zip(shown, real, strict=False)) if isinstance(real, list) else []
        if shown and not pairs:
            return [f"{where}: a list with something in it"]
        return [
            one
            for i, (s, r) in enumerate(pairs)
            for one in missing(s, r, f"{where}.{i}".lstrip("."))
        ]
    numbers = (int, float)
    same = isinstance(real, type(shown)) or (
        isinstance(shown, numbers) and isinstance(real, numbers)
    )
    if shown is None or real is None or same:
        return []
    return [f"{where}: a {type(shown).__name__}, not a {type(real).__name__}"]


def last_json(output: str) -> Any:
    """The last value of JSON that a shell printed, each at the beginning of a line."""
    decoder, found, at = json.JSONDecoder(), None, 0
    while at < len(output):
        start = next((i for i in range(at, len(output)) if output[i] in "{["), len(output))
        try:
            found, at = decoder.raw_decode(output, start)
        except ValueError:
            at = start + 1
    return found
