"""What commands print in a terminal and in a pipe: lines, tables, progress, and questions."""

from __future__ import annotations

import argparse
import io
import logging
import os
import pty
import re
import select
import subprocess
import sys
import termios
from fcntl import ioctl
from struct import pack

import pytest

from backend.cli import terminal
from backend.cli.project_setup import SINGLE_LABEL_QUESTION
from backend.errors import UsageError

OPTIONS = argparse.Namespace(json=False)
LINK = "http://127.0.0.1:8080/" + "x" * 120
SCRIPT = f"""
import argparse, logging, sys, time
from backend.cli import main, terminal
main._configure_logging(False)
options = argparse.Namespace(json=False)
terminal.show_progress("Importing 1 of 2")
logging.getLogger("prelabel").info("a log line")
terminal.print_line("{LINK}", options)
terminal.show_progress("Importing 2 of 2")
print("a line of another library", file=sys.stderr)
terminal.clear_progress()
for line in terminal.format_table(("version", "labels"), [("v1", "3")], options, right={{1}}):
    terminal.print_line(line, options)
"""


def run_in_terminal(code: str, **environment: str) -> str:
    """Run Python code in a terminal of 60 columns, and return what it writes."""
    main_end, child_end = pty.openpty()
    ioctl(child_end, termios.TIOCSWINSZ, pack("HHHH", 20, 60, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=child_end,
        stdout=child_end,
        stderr=child_end,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(child_end)
    output = b""
    while select.select([main_end], [], [], 60)[0]:
        try:
            output += os.read(main_end, 4096)
        except OSError:  # the other end is closed
            break
    os.close(main_end)
    assert child.wait() == 0, output.decode()
    return output.decode()


def test_the_progress_line_and_other_lines_do_not_break_each_other() -> None:
    output = run_in_terminal(SCRIPT)
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).replace("\r", "\n")
    lines = [line.strip() for line in visible.splitlines()]
    for line in ("a log line", LINK, "a line of another library"):
        assert line in lines, "complete, on a line of its own, not broken at 60 columns"
    assert output.rstrip().endswith("3")
    assert output.count("\x1b[?25h") == output.count("\x1b[?25l") > 0, "the cursor is shown again"
    assert "\x1b[1mversion" in output


def test_no_color_is_respected() -> None:
    output = run_in_terminal(SCRIPT, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", output)


def test_a_table_in_a_pipe_is_plain_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("v1-0123abcd", "[bold]not markup[/bold] " + "long " * 60, "3"), ("v2", "", "40")]
    for line in terminal.format_table(("version", "text", "labels"), rows, OPTIONS, right={2}):
        terminal.print_line(line, OPTIONS)
    output = capsys.readouterr().out
    assert "\x1b" not in output
    header, first, second = output.splitlines()
    assert [header.split(), second.split()] == [["version", "text", "labels"], ["v2", "40"]]
    assert "[bold]not markup[/bold]" in first
    assert first.count("long") == 60
    assert len(first) == len(header) == len(second)


def test_in_a_pipe_progress_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_progress("Importing 1 of 2")
    terminal.clear_progress()
    record = logging.LogRecord("prelabel", logging.INFO, "", 0, "a log %s", ("line",), None)
    terminal.TerminalLogHandler().emit(record)
    assert capsys.readouterr().err == "a log line\n"


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> terminal.TerminalPrompter:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    monkeypatch.setattr(terminal.TerminalPrompter, "is_interactive", True)
    return terminal.TerminalPrompter()


def test_an_invalid_answer_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompter = answers(monkeypatch, "3", "so", "maybe", "n", "", "$x", "a, b")
    assert prompter.ask_choice("Which?", {"sort": "", "find": ""}, "goal") == "sort"
    assert "Type a number from 1 to 2, or the start of: sort, find." in capsys.readouterr().err
    assert not prompter.confirm(SINGLE_LABEL_QUESTION.format(label="dress"), "labels")
    errors = capsys.readouterr().err
    assert "Only one label, dress. Is it dress against not dress?" in errors
    assert "Type y for yes or n for no." in errors

    def parse(text: str) -> list[str]:
        if "$" in text:
            raise UsageError("The label '$x' starts with $.")
        return text.split(", ")

    assert prompter.ask_parsed("Which labels?", "labels", "", parse) == ["a", "b"]
    errors = capsys.readouterr().err
    assert "An answer is needed." in errors
    assert "The label '$x' starts with $." in errors


def test_a_log_line_that_cannot_be_written_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    record = logging.LogRecord("prelabel", logging.INFO, "", 0, "a line", None, None)
    terminal.TerminalLogHandler().emit(record)


def test_an_input_that_ends_at_a_secret_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_of_input(*arguments: object) -> str:
        raise EOFError

    monkeypatch.setattr(terminal.TerminalPrompter, "is_interactive", True)
    monkeypatch.setattr("getpass.getpass", end_of_input)
    with pytest.raises(UsageError, match="The input ended"):
        terminal.TerminalPrompter().ask_secret("Token:")
