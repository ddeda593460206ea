"""Print lines and progress in the terminal, and ask questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from backend.errors import UsageError


def print_line(line: str, options: argparse.Namespace) -> None:
    """Print a line on stdout, or on stderr with ``--json``."""
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def show_progress(line: str) -> None:
    """Show a line that the next output overwrites, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Erase the progress line."""
    show_progress("")


class TerminalPrompter:
    """Asks questions on stderr and reads answers from stdin; raises an error without a terminal."""

    @property
    def is_interactive(self) -> bool:
        """Whether stdin is a terminal."""
        return sys.stdin.isatty()

    def ask_choice(self, question: str, answers: Mapping[str, str], option: str) -> str:
        """Return the chosen answer; accept its number, its name or a prefix of the name.

        Args:
            question: question for the user.
            answers: name → explanation, which may be empty.
            option: command-line option that answers the question in scripts.

        Raises:
            UsageError: stdin is not a terminal.
        """
        option_hint = " or ".join(f"--{option} {name}" for name in answers)
        self._require_terminal(f"{question} Answer with {option_hint}.")
        print(f"\n{question}", file=sys.stderr)
        for number, (name, meaning) in enumerate(answers.items(), 1):
            print(f"  {number}  {name}{': ' if meaning else ''}{meaning}", file=sys.stderr)
        while True:
            typed = self._read_line(f"1 to {len(answers)}: ").lower()
            answer = _match_answer(typed, list(answers))
            if answer:
                return answer

    def confirm(self, question: str, option: str) -> bool:
        """Return whether the user answers yes, which is the default."""
        self._require_terminal(f"{question} Answer with --{option} or --no-{option}.")
        while True:
            typed = self._read_line(f"\n{question} [Y/n] ").lower()
            if typed in ("", "y", "yes", "n", "no"):
                return typed not in ("n", "no")

    def ask_text(self, question: str, option: str, default: str = "") -> str:
        """Return a non-empty text; an empty line selects the default, if there is one."""
        option_name = option if option.isupper() else f"--{option}"
        self._require_terminal(f"{question} Answer with {option_name}.")
        default_hint = f" [{default}]" if default else ""
        while True:
            typed = self._read_line(f"\n{question}{default_hint}\n> ") or default
            if typed:
                return typed

    def ask_secret(self, question: str) -> str:
        """Return a text that the terminal does not show, or the first line of a pipe."""
        if not self.is_interactive:
            return self._read_line("")
        import getpass

        print(question, file=sys.stderr)
        while True:
            if typed := getpass.getpass("> ", sys.stderr).strip():
                return typed

    def _require_terminal(self, message: str) -> None:
        if not self.is_interactive:
            raise UsageError(message)

    @staticmethod
    def _read_line(prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise UsageError("The input ended before all questions were answered.")
        return line.strip()


def open_in_browser(url: str) -> None:
    """Open a page in a graphical browser, if there is one."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:  # a text browser would occupy the terminal
        browser.open(url)


def _match_answer(typed: str, names: list[str]) -> str:
    if typed.isdigit() and 1 <= int(typed) <= len(names):
        return names[int(typed) - 1]
    matches = [name for name in names if typed and name.startswith(typed)]
    return matches[0] if len(matches) == 1 else ""
