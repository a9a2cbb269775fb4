"""Random requests made by schemathesis from a daemon's own OpenAPI document, over real sockets."""

from collections.abc import Mapping
from typing import Any

import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.hostile_requests import Tally, fault_of

ANSWER_WITHIN_S = 30.0
CHECKS = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip
OFF_THE_TABLE = frozenset({404, 405, 431})
"""An id that is no id, or a method that the path lacks, is answered before any route of the document."""

_NO_DRAIN = st.one_of(st.text(), st.booleans(), st.floats(max_value=-0.5), st.lists(st.integers(), max_size=3))


def ask_at_random(document: Mapping[str, Any], url: str, key: str, *, examples: int, first: int = 1) -> Tally:
    """So many requests to each operation of a document that fit it, and as many that do not."""
    tally = Tally()
    schema = from_dict(dict(document))
    with requests.Session() as session:
        session.trust_env = False
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            for mode in GenerationMode:
                _ask(operation, mode, _Sender(session, url, key, tally), examples, first)
    return tally


class _Sender:
    """Sends cases and judges the answers."""

    def __init__(self, session: requests.Session, url: str, key: str, tally: Tally) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._tally = tally

    def send(self, case: Any) -> None:
        arguments = case.as_transport_kwargs(base_url=self._url, headers=self._headers)
        try:
            with self._session.request(**arguments, stream=True, timeout=ANSWER_WITHIN_S) as answer:
                self._judge(case, answer)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidJSONError):
            pass  # what the client library cannot write is the other generator's business

    def _judge(self, case: Any, answer: requests.Response) -> None:
        self._tally.statuses[answer.status_code] += 1
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return  # it may never end; closing it ends it
        fault = fault_of(answer.status_code, answer.content) or _unlike_the_document(case, answer)
        if fault is not None:
            self._tally.faults.append(f"{fault}\n  asked: {case.as_curl_command()[:600]}\n  got: {answer.text[:600]}")


def _unlike_the_document(case: Any, answer: requests.Response) -> str | None:
    if answer.status_code in OFF_THE_TABLE:
        return None
    try:
        case.validate_response(Response.from_requests(answer, verify=False), checks=CHECKS)
    except (FailureGroup, AssertionError) as failures:
        return f"unlike the document: {failures} {getattr(failures, 'exceptions', '')}"[:1500]
    return None


def _ask(operation: Any, mode: GenerationMode, sender: _Sender, examples: int, first: int) -> None:
    ends = operation.path.endswith("/shutdown")

    @seed(first)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), wrong=_NO_DRAIN)
    def one(case: Any, wrong: Any) -> None:
        if ends:  # with a drain time that is none, whatever else it says: nothing may end here
            case.body = {"drain_s": wrong}
            case.media_type = "application/json"
        sender.send(case)

    try:
        one()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, operation.label  # whatever is sent fits an operation without parameters
