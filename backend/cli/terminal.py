"""The terminal: questions to people, and a line that the next one overwrites."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from backend.errors import UsageError


class Asker:
    """Asks on stderr, reads from stdin; where nobody is there, a missing answer is an error."""

    @property
    def somebody(self) -> bool:
        """A person sits at the terminal."""
        return sys.stdin.isatty()

    def choice(self, question: str, answers: Mapping[str, str], option: str) -> str:
        """One of some answers, by its number, its name, or how that begins.

        Args:
            question: as people read it.
            answers: each with what it means; empty where it speaks for itself.
            option: that answers it in scripts.

        Raises:
            UsageError: nobody is there.
        """
        given = " or ".join(f"--{option} {name}" for name in answers)
        self._need(f"{question} Answer with {given}.")
        self._tell(f"\n{question}")
        for place, (name, meaning) in enumerate(answers.items(), 1):
            self._tell(f"  {place}  {name}{': ' if meaning else ''}{meaning}")
        while True:
            typed = self._line(f"1 to {len(answers)}: ").lower()
            found = _named(typed, list(answers))
            if found:
                return found

    def yes(self, question: str, option: str) -> bool:
        """Yes or no; Enter alone is yes."""
        self._need(f"{question} Answer with --{option} or --no-{option}.")
        while True:
            typed = self._line(f"\n{question} [Y/n] ").lower()
            if typed in ("", "y", "yes", "n", "no"):
                return typed not in ("n", "no")

    def text(self, question: str, option: str, default: str = "") -> str:
        """Some text; Enter alone is the default, where there is one."""
        named = option if option.isupper() else f"--{option}"
        self._need(f"{question} Answer with {named}.")
        shown = f" [{default}]" if default else ""
        while True:
            typed = self._line(f"\n{question}{shown}\n> ") or default
            if typed:
                return typed

    def _need(self, otherwise: str) -> None:
        if not self.somebody:
            raise UsageError(otherwise)

    @staticmethod
    def _tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _line(prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise UsageError("The answers ended here; nothing was made.")
        return line.strip()


def show(line: str) -> None:
    """A line that the next one overwrites; only for eyes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def clear() -> None:
    """Take such a line away."""
    show("")


def open_page(url: str) -> None:
    """Open a page in the browser, where there is one with windows."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:  # text browsers take the terminal
        browser.open(url)


def _named(typed: str, names: list[str]) -> str:
    if typed.isdigit() and 1 <= int(typed) <= len(names):
        return names[int(typed) - 1]
    found = [name for name in names if typed and name.startswith(typed)]
    return found[0] if len(found) == 1 else ""
