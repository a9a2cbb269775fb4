"""One daemon's part of the route table as an OpenAPI 3.1 document; schemas are those of the wire types."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from daemons import __version__
from daemons.contracts.errors import ERROR_TABLE, Code
from daemons.contracts.routes import REQUEST_ID, Daemon, Kind, RequestHeader, Route, routes_of
from daemons.kit.middleware import COME_BACK, has_openai_envelope

_TEMPLATE = "#/components/schemas/{model}"
_ID = "{id}"
_JSON, _EVENTS = "application/json", "text/event-stream"
_MEDIA_TYPES: Mapping[Kind, tuple[str, ...]] = {
    Kind.JSON: (_JSON,),
    Kind.STREAM: (_EVENTS,),
    Kind.EITHER: (_JSON, _EVENTS),
    Kind.TEXT: ("text/plain",),
    Kind.EMPTY: (),
}
_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}

Schemas = Mapping[Any, dict[str, Any]]
"""(wire type, how it is used) -> a reference to its schema."""


@functools.cache
def openapi_document(daemon: Daemon) -> dict[str, Any]:
    """The document of one daemon; it never changes while the program runs."""
    table = routes_of(daemon)
    references, definitions = models_json_schema(sorted(_models(table), key=str), ref_template=_TEMPLATE)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"rbee {daemon.value}", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), **_ERRORS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(table: Iterable[Route]) -> set[tuple[type[BaseModel], Any]]:
    """What comes in is described as it is validated, what goes out as it is written."""
    sent = {(model, "serialization") for route in table for model in (route.answer, route.detached) if model}
    return sent | {(route.body, "validation") for route in table if route.body}


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {**_successes(route, schemas), **_failures(route)},
        "security": [{"bearer": []}] if route.role is not None else [],
    }
    if route.body is not None:
        schema = schemas[route.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema}}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    if _ID not in route.path:
        return []
    return [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=_TEMPLATE)
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _inlined(field, definitions)}
        for name, field in schema["properties"].items()
    ]


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A parameter's schema with enumerations in their place, and without null: a query has no such value."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return definitions[schema["$ref"].rpartition("/")[2]]
    fields = {name: value for name, value in schema.items() if name != "anyOf" and value is not None}
    given = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    return {**_inlined(given[0], definitions), **fields} if given else fields


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    def parameter(header: RequestHeader) -> dict[str, Any]:
        schema = {"type": header.type}
        return {"name": header.name, "in": "header", "description": header.meaning, "schema": schema}

    return [parameter(header) for header in (REQUEST_ID, *route.headers)]


def _successes(route: Route, schemas: Schemas) -> dict[str, Any]:
    answer = schemas[route.answer, "serialization"] if route.answer else {"type": "object"}
    shapes = {_JSON: answer}
    content = {media: {"schema": shapes.get(media, {"type": "string"})} for media in _MEDIA_TYPES[route.kind]}
    found = {str(route.status): {"description": route.summary, **({"content": content} if content else {})}}
    if route.detached is not None:
        accepted = {_JSON: {"schema": schemas[route.detached, "serialization"]}}
        found["202"] = {"description": "taken; follow it at `events_url`", "content": accepted}
    return found


def _failures(route: Route) -> dict[str, Any]:
    """One response for each status, with the codes that it may have here."""
    by_status: dict[int, list[Code]] = {}
    for code in sorted(route.failures):
        by_status.setdefault(ERROR_TABLE[code].status, []).append(code)
    name = "OpenAiError" if has_openai_envelope(route.daemon, route.path) else "Error"
    return {str(status): _failure(status, codes, name) for status, codes in sorted(by_status.items())}


def _failure(status: int, codes: list[Code], envelope: str) -> dict[str, Any]:
    of_these = {"properties": {"error": {"properties": {"code": {"enum": [code.value for code in codes]}}}}}
    schema = {"allOf": [{"$ref": _TEMPLATE.format(model=envelope)}, of_these]}
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code.value}`: {ERROR_TABLE[code].meaning}" for code in codes),
        "content": {_JSON: {"schema": schema}},
    }
    return {**described, "headers": _RETRY_AFTER} if status in COME_BACK else described


def _envelope(further: Mapping[str, Any]) -> dict[str, Any]:
    strings = {name: {"type": "string"} for name in ("code", "message", "hint", "request_id")}
    fields = {**strings, "details": {"type": "object"}, **further}
    error = {"type": "object", "required": list(fields), "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


_ERRORS = {
    "Error": _envelope({}),
    "OpenAiError": _envelope({"type": {"type": "string"}, "param": {"type": "null"}}),
}
