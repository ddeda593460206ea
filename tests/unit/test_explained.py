"""What goes wrong on the way to Modal is one sentence, whatever the packages between raise."""

from __future__ import annotations

import pytest
from modal import exception

from serverless.modal_client import JobFailedError, ModalErrorTranslator, ModalUnreachableError


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), TimeoutError("slow"), ConnectionResetError(), OSError("no such file")],
)
def test_a_slow_line_is_told_as_any_other_that_breaks(error: Exception) -> None:
    wanted = JobFailedError if type(error) is OSError else ModalUnreachableError
    with pytest.raises(wanted) as told, ModalErrorTranslator("prelabel"):
        raise error
    assert told.value.__cause__ is error


def test_a_job_that_modal_ended_for_its_time_is_no_matter_of_the_line() -> None:
    with pytest.raises(JobFailedError), ModalErrorTranslator("prelabel"):
        raise exception.FunctionTimeoutError("Task's current input hit its timeout of 600s")


def test_who_waits_for_nothing_may_still_be_told_that_it_is_not_ready() -> None:
    def wait() -> None:
        with ModalErrorTranslator("prelabel"):
            try:
                raise TimeoutError
            except TimeoutError:
                return

    wait()
