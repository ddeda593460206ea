"""The terminal: questions to people, and a line that the next one overwrites."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from backend.errors import UsageError


class TerminalPrompter:
    """Asks on stderr, reads from stdin; where nobody is there, a missing answer is an error."""

    @property
    def is_interactive(self) -> bool:
        """A person sits at the terminal."""
        return sys.stdin.isatty()

    def ask_choice(self, question: str, answers: Mapping[str, str], option: str) -> str:
        """One of some answers, by its number, its name, or how that begins.

        Args:
            question: as people read it.
            answers: each with what it means; empty where it speaks for itself.
            option: that answers it in scripts.

        Raises:
            UsageError: nobody is there.
        """
        option_hint = " or ".join(f"--{option} {name}" for name in answers)
        self._require_terminal(f"{question} Answer with {option_hint}.")
        self._print(f"\n{question}")
        for number, (name, meaning) in enumerate(answers.items(), 1):
            self._print(f"  {number}  {name}{': ' if meaning else ''}{meaning}")
        while True:
            typed = self._read_line(f"1 to {len(answers)}: ").lower()
            answer = _match_answer(typed, list(answers))
            if answer:
                return answer

    def confirm(self, question: str, option: str) -> bool:
        """Yes or no; Enter alone is yes."""
        self._require_terminal(f"{question} Answer with --{option} or --no-{option}.")
        while True:
            typed = self._read_line(f"\n{question} [Y/n] ").lower()
            if typed in ("", "y", "yes", "n", "no"):
                return typed not in ("n", "no")

    def ask_text(self, question: str, option: str, default: str = "") -> str:
        """Some text; Enter alone is the default, where there is one."""
        option_name = option if option.isupper() else f"--{option}"
        self._require_terminal(f"{question} Answer with {option_name}.")
        default_hint = f" [{default}]" if default else ""
        while True:
            typed = self._read_line(f"\n{question}{default_hint}\n> ") or default
            if typed:
                return typed

    def _require_terminal(self, message: str) -> None:
        if not self.is_interactive:
            raise UsageError(message)

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _read_line(prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise UsageError("The answers ended here; nothing was made.")
        return line.strip()


def show_progress(line: str) -> None:
    """A line that the next one overwrites; only for eyes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Take such a line away."""
    show_progress("")


def open_in_browser(url: str) -> None:
    """Open a page in the browser, where there is one with windows."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:  # text browsers take the terminal
        browser.open(url)


def _match_answer(typed: str, names: list[str]) -> str:
    if typed.isdigit() and 1 <= int(typed) <= len(names):
        return names[int(typed) - 1]
    matches = [name for name in names if typed and name.startswith(typed)]
    return matches[0] if len(matches) == 1 else ""
