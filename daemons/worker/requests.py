"""From a request on the wire to one for the engine: template, tokens, grammar, deadline."""

import json
import time

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.inference import Generation, InferenceRequest, ResponseFormat
from daemons.worker.engine.backend import ModelInfo, Vocabulary
from daemons.worker.engine.request import GenerateRequest, SamplingParams
from daemons.worker.templates import ChatTemplate

ANY_OBJECT = json.dumps({"type": "object"})

_COPIED = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty",
    "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "mirostat",
    "mirostat_tau", "mirostat_eta", "seed",
)  # fmt: skip
"""Sampling fields that mean the same on the wire and in the engine."""


class RequestReader:
    """Turns wire requests into engine requests for one loaded model. Pure but for the clock; safe in any thread."""

    def __init__(self, vocabulary: Vocabulary, info: ModelInfo) -> None:
        self._vocabulary = vocabulary
        self._info = info
        self._template = ChatTemplate(info.chat_template, bos=info.bos, eos=info.eos)

    def read(self, request: InferenceRequest, *, deadline: float | None) -> GenerateRequest:
        """`deadline` is in unix seconds. Raises RbeeError: INVALID_REQUEST, MODEL_INVALID, CONTEXT_OVERFLOW."""
        arrived = time.monotonic()
        if not self._info.generates:
            raise RbeeError(Code.INVALID_REQUEST, "this model makes embeddings only; use /v1/embeddings")
        sampling = self._sampling(request)
        tokens = self._tokens(request)
        return GenerateRequest(
            id=request.id,
            tokens=tuple(tokens),
            max_tokens=request.max_tokens,
            sampling=sampling,
            stop=tuple(request.stop),
            deadline=on_engine_clock(deadline),
            arrived=arrived,
            cache_prompt=request.cache_prompt,
            logprobs=request.logprobs,
            ignore_eos=request.ignore_eos,
        )

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Tokens of a text, special tokens in it included. Raises RbeeError(INVALID_REQUEST) for lone surrogates."""
        try:
            return self._vocabulary.tokenize(text, add_special=add_special, parse_special=True)
        except UnicodeEncodeError as error:
            raise RbeeError(Code.INVALID_REQUEST, f"the text is not Unicode: {error}") from None

    def detokenize(self, tokens: list[int]) -> str:
        """Text of the tokens. Raises RbeeError(INVALID_REQUEST) naming ids outside the vocabulary."""
        self._check_ids("tokens", tokens)
        return b"".join(map(self._vocabulary.piece, tokens)).decode("utf-8", "replace")

    def _tokens(self, request: Generation) -> list[int]:
        if request.messages is None:
            return self.tokenize(request.prompt or "", add_special=True)
        prompt = self._template.render(request.messages, request.tools)
        # Most templates write BOS themselves; a second one would change the answer.
        return self.tokenize(prompt, add_special=not (self._info.bos and prompt.startswith(self._info.bos)))

    def _sampling(self, request: Generation) -> SamplingParams:
        biases = tuple((int(token), bias) for token, bias in request.logit_bias.items())
        self._check_ids("logit_bias", [token for token, _ in biases])
        values = {name: getattr(request, name) for name in _COPIED}
        return SamplingParams(**values, logit_bias=biases, grammar=self._grammar(request))

    def _grammar(self, request: Generation) -> str | None:
        wanted = request.response_format
        if wanted is None or wanted.type == "text":
            return request.grammar
        if request.grammar is not None:
            raise RbeeError(Code.INVALID_REQUEST, "give either grammar or response_format")
        try:
            return self._vocabulary.grammar_of_schema(_schema_text(wanted))
        except ValueError as error:
            raise RbeeError(
                Code.INVALID_REQUEST,
                f"response_format: the schema cannot be turned into a grammar: {error}",
                details={"fields": [{"field": "response_format.json_schema", "problem": str(error)}]},
            ) from None

    def _check_ids(self, field: str, tokens: list[int]) -> None:
        wrong = [token for token in tokens if not 0 <= token < self._info.vocab_size]
        if wrong:
            raise RbeeError(
                Code.INVALID_REQUEST,
                f"{field}: {len(wrong)} token id(s) outside 0..{self._info.vocab_size - 1}, the first is {wrong[0]}",
                details={"fields": [{"field": field, "problem": f"{wrong[0]} is not a token id of this model"}]},
            )


def _schema_text(wanted: ResponseFormat) -> str:
    """Raises ValueError."""
    try:
        return ANY_OBJECT if wanted.type == "json_object" else json.dumps(wanted.schema_object)
    except RecursionError:
        raise ValueError("the schema is nested too deeply") from None


def on_engine_clock(deadline: float | None) -> float | None:
    """A deadline in unix seconds on the engine's monotonic clock."""
    return None if deadline is None else time.monotonic() + deadline - time.time()
