"""The error table is total, and an error survives the wire."""

import re

import pytest

from daemons.contracts.errors import ERROR_TABLE, Code, RbeeError

KNOWN_STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 429, 431, 499, 500, 502, 503, 507}


def test_every_code_has_a_row_and_every_row_a_code() -> None:
    assert set(ERROR_TABLE) == set(Code)


@pytest.mark.parametrize("code", list(Code))
def test_rows_are_complete(code: Code) -> None:
    spec = ERROR_TABLE[code]
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code.value)
    assert spec.status in KNOWN_STATUSES
    assert spec.meaning
    assert spec.hint


@pytest.mark.parametrize("code", [code for code in Code if ERROR_TABLE[code].status == 503])
def test_come_back_later_is_always_retryable(code: Code) -> None:
    assert ERROR_TABLE[code].retryable


def test_round_trip_keeps_everything() -> None:
    error = RbeeError(Code.QUEUE_FULL, "100 of 100 wait", details={"retry_after_s": 2.5}, hint="rbee ps")
    again = RbeeError.from_dict(error.as_dict("req-1"))
    assert (again.code, again.message, again.details, again.hint) == (
        error.code,
        error.message,
        error.details,
        error.hint,
    )
    assert again.retry_after == 2.5
    assert again.status == 503


def test_a_code_from_a_newer_version_is_kept_by_name() -> None:
    error = RbeeError.from_dict({"code": "FLUX_CAPACITOR_COLD", "message": "88 mph needed"})
    assert error.code is Code.INTERNAL
    assert error.details["unknown_code"] == "FLUX_CAPACITOR_COLD"
    assert error.message == "88 mph needed"
