"""What a generation may ask for is bounded before anything is computed of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from daemons.contracts.inference import MOST_REPEATED, Generation


def asking(**fields: Any) -> Generation:
    return Generation.model_validate({"prompt": "x", **fields})


def schema(body: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": body}}}


@pytest.mark.parametrize(
    "body",
    [
        {"type": "string", "minLength": MOST_REPEATED + 1},
        {"type": "string", "maxLength": 1e300},
        {"type": "array", "minItems": 200, "items": {"type": "array", "minItems": 200, "items": {"type": "null"}}},
        {"type": "string", "pattern": "^(a{300}){300}$"},
        {"type": "string", "pattern": "^a{1,99999999999999999999}$"},
        {"type": "string", "pattern": "^a{10000,99999}$"},
        {"type": "string", "pattern": "^(a{1000,9999}){10,99}$"},
        {"properties": {"deep": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 10**9}]}}},
    ],
)
def test_a_schema_that_would_be_written_out_too_often_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="repeats something"):
        asking(**schema(body))


@pytest.mark.parametrize(
    "body",
    [
        {"type": "string", "maxLength": 500, "pattern": "^[a-z]{1,8}$"},
        {"type": "array", "minItems": 0, "maxItems": 10, "items": {"type": "string", "maxLength": 40}},
        {"type": "object", "properties": {"minLength": {"type": "integer"}, "pattern": {"type": "string"}}},
        {"type": "string", "minLength": -5, "pattern": "^{}$"},
    ],
)
def test_usual_schemas_pass(body: dict[str, Any]) -> None:
    assert asking(**schema(body)).response_format is not None


@pytest.mark.parametrize("token", ["9" * 5000, "1" * 10, "\u0663", "-1", "+1", " 1", "1.0", ""])
def test_a_logit_bias_names_a_token_id(token: str) -> None:
    with pytest.raises(ValidationError, match="is not a token id"):
        asking(logit_bias={token: 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    for field in ("temperature", "presence_penalty"):
        with pytest.raises(ValidationError):
            asking(**{field: value})
