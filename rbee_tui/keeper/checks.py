"""What a check of `rbee doctor` says."""

from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """`warn` still works, with something missing; `fail` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to run when it is not in order."""

    name: str
    result: Result
    sentence: str
    command: str = ""
