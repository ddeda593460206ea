"""Print lines and progress in the terminal, and ask questions."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from backend.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

AnswerT = TypeVar("AnswerT")
PIPE_WIDTH = 10_000
"""Width of a table that is not printed in a terminal, in characters: rows are not wrapped."""


def print_line(line: str, options: argparse.Namespace) -> None:
    """Print a line on stdout, or on stderr with ``--json``; above the progress line, if any."""
    stream = sys.stderr if options.json else sys.stdout
    if not (stream.isatty() and _progress.print_above(line)):
        print(line, file=stream, flush=True)


def show_progress(line: str) -> None:
    """Show a line that later output does not break, if stderr is a terminal; "" erases it."""
    if not line:
        _progress.clear()
    elif sys.stderr.isatty():
        _progress.show(line)


def clear_progress() -> None:
    """Erase the progress line."""
    _progress.clear()


class ProgressLine:
    """A line at the bottom of the terminal; thread-safe.

    While it is shown, other output of the process appears above it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bar: Progress | None = None

    def show(self, line: str) -> None:
        """Show a line, in place of the one before."""
        with self._lock:
            if self._bar is None:
                self._bar = _start_bar()
            self._bar.update(self._bar.task_ids[0], description=line)

    def print_above(self, line: str) -> bool:
        """Print a line if the progress line is shown, and return whether it was."""
        with self._lock:
            if self._bar is not None:
                # rich would break long lines, such as links, that the terminal wraps by itself
                self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)
            return self._bar is not None

    def clear(self) -> None:
        """Erase the line."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None


_progress = ProgressLine()
INPUT_ENDED_MESSAGE = "The input ended before all questions were answered."


class TerminalLogHandler(logging.Handler):
    """Log handler that prints on stderr, above the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; a full disk or a closed terminal stops nothing."""
        try:
            line = self.format(record)
            if not (sys.stderr.isatty() and _progress.print_above(line)):
                print(line, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def format_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    options: argparse.Namespace,
    *,
    right: Collection[int] = (),
    indent: int = 0,
) -> list[str]:
    """Return the lines of a table for :func:`print_line`.

    In a terminal, cells are wrapped to its width. In a pipe each row is one line.

    Args:
        headers: a title for each column.
        rows: the cells of each row.
        options: options of the command.
        right: indices of columns that are aligned to the right.
        indent: number of spaces in front of each line.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if options.json else sys.stdout
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, header in enumerate(headers):
        justify: Literal["left", "right"] = "right" if index in right else "left"
        table.add_column(header, justify=justify, overflow="fold", header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)
    with console.capture() as capture:
        console.print(Padding(table, (0, 0, 0, indent), expand=False))
    return [line.rstrip() for line in capture.get().splitlines()]


def _start_bar() -> Progress:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    # stdout may be a file although stderr is a terminal
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    bar.add_task("", total=None)
    bar.start()
    return bar


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
            choices = ", ".join(answers)
            self.explain(f"Type a number from 1 to {len(answers)}, or the start of: {choices}.")

    def confirm(self, question: str, option: str) -> bool:
        """Return whether the user answers yes, which is the default."""
        self._require_terminal(f"{question} Answer with --{option} or --no-{option}.")
        while True:
            typed = self._read_line(f"\n{question} [Y/n] ").lower()
            if typed in ("", "y", "yes", "n", "no"):
                return typed not in ("n", "no")
            self.explain("Type y for yes or n for no.")

    def ask_text(self, question: str, option: str, default: str = "") -> str:
        """Return a non-empty text; an empty line selects the default, if there is one."""
        option_name = option if option.isupper() else f"--{option}"
        self._require_terminal(f"{question} Answer with {option_name}.")
        default_hint = f" [{default}]" if default else ""
        while True:
            typed = self._read_line(f"\n{question}{default_hint}\n> ") or default
            if typed:
                return typed
            self.explain("An answer is needed. Ctrl-C stops.")

    def ask_parsed(
        self, question: str, option: str, default: str, parse: Callable[[str], AnswerT]
    ) -> AnswerT:
        """Return a parsed text; ask again with the reason if it cannot be parsed.

        Args:
            question: question for the user.
            option: command-line option that answers the question in scripts.
            default: answer to an empty line; empty if an answer is required.
            parse: returns the answer; raises a ``UsageError`` that says what is wrong.
        """
        while True:
            try:
                return parse(self.ask_text(question, option, default))
            except UsageError as error:
                if not self.is_interactive:
                    raise
                self.explain(str(error))

    @staticmethod
    def explain(sentence: str) -> None:
        """Print a sentence about an answer."""
        print(sentence, file=sys.stderr)

    def ask_secret(self, question: str) -> str:
        """Return a text that the terminal does not show, or the first line of a pipe."""
        if not self.is_interactive:
            return self._read_line("")
        import getpass

        print(question, file=sys.stderr)
        while True:
            try:
                typed = getpass.getpass("> ", sys.stderr).strip()
            except EOFError as error:
                raise UsageError(INPUT_ENDED_MESSAGE) from error
            if typed:
                return typed
            self.explain("An answer is needed. Ctrl-C stops.")

    def _require_terminal(self, message: str) -> None:
        if not self.is_interactive:
            raise UsageError(message)

    @staticmethod
    def _read_line(prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise UsageError(INPUT_ENDED_MESSAGE)
        return line.strip()


def open_in_browser(url: str) -> bool:
    """Open a page in a graphical browser, and return whether there is one."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if type(browser) is webbrowser.GenericBrowser:  # a text browser would occupy the terminal
        return False
    return browser.open(url)


def _match_answer(typed: str, names: list[str]) -> str:
    if typed.isdigit() and 1 <= int(typed) <= len(names):
        return names[int(typed) - 1]
    matches = [name for name in names if typed and name.startswith(typed)]
    return matches[0] if len(matches) == 1 else ""
