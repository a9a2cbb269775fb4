"""The queen's part of the route table as an OpenAPI 3.1 document; schemas are those of the wire types."""

import functools
import re
from typing import Any

from pydantic.json_schema import models_json_schema

from daemons import __version__
from daemons.contracts.routes import Daemon, Kind, Route, routes_of

_TEMPLATE = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)}")
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details", "hint", "request_id"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
                "hint": {"type": "string"},
                "request_id": {"type": "string"},
            },
        }
    },
}
_MEDIA_TYPES = {Kind.JSON: "application/json", Kind.STREAM: "text/event-stream", Kind.TEXT: "text/plain"}


@functools.cache
def openapi_document() -> dict[str, Any]:
    """The document; it never changes while the queen runs."""
    routes = routes_of(Daemon.QUEEN)
    bodies = {route.body for route in routes if route.body}
    answers = {route.answer for route in routes if route.answer}
    wanted = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    references, definitions = models_json_schema(
        sorted(wanted, key=lambda pair: pair[0].__name__),  # type: ignore[arg-type]
        ref_template=_TEMPLATE,
    )
    schema_of = {(model, mode): schema for (model, mode), schema in references.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        body = schema_of.get((route.body, "validation")) if route.body else None
        answer = schema_of.get((route.answer, "serialization")) if route.answer else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, body, answer)
    return {
        "openapi": "3.1.0",
        "info": {"title": "rbee queen", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Error": _ERROR_SCHEMA},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, body: dict[str, Any] | None, answer: dict[str, Any] | None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "responses": {str(route.status): _success(route, answer), "default": _failure()},
        "security": [{"bearer": []}] if route.role is not None else [],
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _success(route: Route, answer: dict[str, Any] | None) -> dict[str, Any]:
    if route.kind is Kind.EMPTY:
        return {"description": route.summary}
    schema = answer or ({"type": "object"} if route.kind is Kind.JSON else {"type": "string"})
    return {"description": route.summary, "content": {_MEDIA_TYPES[route.kind]: {"schema": schema}}}


def _failure() -> dict[str, Any]:
    schema = {"$ref": _TEMPLATE.format(model="Error")}
    return {"description": "a failure, see its code", "content": {"application/json": {"schema": schema}}}
