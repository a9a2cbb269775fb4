"""Base classes of all wire types, and the check that turns pydantic's faults into one `INVALID_REQUEST`."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from daemons.contracts.errors import Code, RbeeError

_SHOWN_LENGTH = 40
_SECRET = re.compile("key|secret|password|credential", re.IGNORECASE)
"""In the name of a field whose value is never told again."""


class Request(BaseModel):
    """What a client sends: unknown fields are refused, values are not coerced between JSON types, and finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """What a daemon answers: unknown fields are ignored, so that an older reader understands a newer daemon."""

    model_config = ConfigDict(extra="ignore")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters (newline, escape, NUL) are not allowed")
    return text


PrintableStr = Annotated[str, AfterValidator(_printable)]
"""A name, path or reference that may be echoed to terminals and logs."""

RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_request(model: type[RequestT], body: Any) -> RequestT:
    """Validate decoded JSON against `model`.

    Raises RbeeError(INVALID_REQUEST) that names every faulty field at once, in ``details["fields"]`` as
    ``{"field", "problem"}`` rows and in the message. A validator may raise RbeeError itself; its code then wins.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        for fault in error.errors():
            cause = (fault.get("ctx") or {}).get("error")
            if isinstance(cause, CodedValueError):
                raise RbeeError(cause.code, str(cause), details=invalid_fields(error).details) from None
        raise invalid_fields(error) from None


class CodedValueError(ValueError):
    """Raised inside a validator when the fault has an error code of its own."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid_fields(error: ValidationError) -> RbeeError:
    """One INVALID_REQUEST for all faults that pydantic found, each with the value that was given where it is short."""
    fields = [
        {"field": ".".join(str(part) for part in fault["loc"]) or "body", "problem": _problem_of(fault)}
        for fault in error.errors()
    ]
    sentence = "; ".join(f"{row['field']}: {row['problem']}" for row in fields)
    return RbeeError(Code.INVALID_REQUEST, f"{len(fields)} invalid field(s): {sentence}", details={"fields": fields})


def _problem_of(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown field"
    if fault["type"] == "value_error":  # by a validator of ours, which says what matters of the value
        return fault["msg"].removeprefix("Value error, ")
    return fault["msg"] + given(fault["loc"], fault["input"])


def given(location: Sequence[int | str], value: Any) -> str:
    """`` (given: 0)`` for a single value, shortened and escaped; nothing for what has parts, or may be a secret.

    Without a location the value is the whole text that was to be read, whatever is in it.
    """
    if not location or any(_SECRET.search(str(part)) for part in location):
        return ""
    if isinstance(value, str):
        return f" (given: {value[:_SHOWN_LENGTH]!r}{'…' if len(value) > _SHOWN_LENGTH else ''})"
    return f" (given: {json.dumps(value)[:_SHOWN_LENGTH]})" if value is None or isinstance(value, int | float) else ""


def as_json_dict(model: BaseModel) -> Mapping[str, Any]:
    """The JSON form of a wire object, without fields that are None."""
    dumped: dict[str, Any] = model.model_dump(mode="json", exclude_none=True)
    return dumped
