"""Errors of the package modal are translated into the project's own, whatever it raises."""

from __future__ import annotations

import pytest
from modal import exception

from serverless.modal_errors import JobFailedError, ModalUnreachableError, translate_modal_errors


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), TimeoutError("slow"), ConnectionResetError(), OSError("no such file")],
)
def test_a_slow_connection_is_reported_like_a_broken_one(error: Exception) -> None:
    expected = JobFailedError if type(error) is OSError else ModalUnreachableError
    with pytest.raises(expected) as raised, translate_modal_errors("prelabel"):
        raise error
    assert raised.value.__cause__ is error


def test_a_job_that_exceeded_modals_time_limit_is_no_connection_error() -> None:
    with pytest.raises(JobFailedError), translate_modal_errors("prelabel"):
        raise exception.FunctionTimeoutError("Task's current input hit its timeout of 600s")


def test_a_timeout_that_is_handled_inside_is_not_translated() -> None:
    def wait() -> None:
        with translate_modal_errors("prelabel"):
            try:
                raise TimeoutError
            except TimeoutError:
                return

    wait()
