"""llama.cpp sampler chains, one per sequence; the order of their parts is llama.cpp's default (common/common.h)."""

import ctypes
import math
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from daemons.worker.engine.backend import SamplingFailed
from daemons.worker.engine.llama.library import LLAMA_LOG
from daemons.worker.engine.request import SamplingParams

DRY_BREAKERS = ("\n", ":", '"', "*")
"""Sequence breakers of DRY, llama.cpp's defaults."""

MIROSTAT_WINDOW = 100
"""`m` of Mirostat 1, as in the paper and in llama.cpp."""

DEEPEST_GRAMMAR = 200
"""Brackets within brackets that a grammar may have: llama.cpp's parser recurses into each, and its stack is finite."""

_GRAMMAR_PARTS = re.compile(r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|<[^>]*>?|#[^\r\n]*|[()]', re.DOTALL)
"""Literals, character classes, tokens and comments, in which brackets mean nothing; and brackets.

What is not closed goes on to the end, as for the parser: looking again from each later start would take minutes.
"""

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""Memory layout of `llama_token_data`."""


class ChainSampler:
    """A chain that chooses by itself: sampling is one call into llama.cpp."""

    __slots__ = ("_chain", "_context")

    def __init__(self, context: Any, chain: Any) -> None:
        self._context = context
        self._chain = chain

    def sample(self, row: int) -> int:
        token: int = llama.llama_sampler_sample(self._chain, self._context, row)
        return token

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None


class GrammarSampler:
    """A chain under a grammar.

    The grammar is asked about the chain's choice first, and about the whole vocabulary only when it refuses that one:
    a full check costs milliseconds. The chosen token is never accepted unless the grammar allows it, because llama.cpp
    aborts the process otherwise.
    """

    def __init__(self, context: Any, chain: Any, grammar: Any, vocab_size: int) -> None:
        self._context = context
        self._chain = chain
        self._grammar = grammar
        self._candidates = np.zeros(vocab_size, dtype=CANDIDATE)
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._count = 0

    def sample(self, row: int) -> int:
        array = self._fill(row)
        token = self._choose(array)
        if not self._allowed(token):
            array = self._fill(row)
            llama.llama_sampler_apply(self._grammar, ctypes.byref(array))
            if not np.isfinite(self._candidates["logit"]).any():
                raise SamplingFailed(f"the grammar allows no token of this model after {self._count} tokens")
            token = self._choose(array)
            if not self._allowed(token):
                raise SamplingFailed(f"the sampling filters left no token that the grammar allows after {self._count}")
        llama.llama_sampler_accept(self._grammar, token)
        llama.llama_sampler_accept(self._chain, token)
        self._count += 1
        return token

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            llama.llama_sampler_free(self._grammar)
            self._chain = self._grammar = None

    def _fill(self, row: int) -> Any:
        """All tokens with their logits; a sampler may reorder the memory, so ids are written each time."""
        self._candidates["id"] = self._ids
        self._candidates["logit"] = logits_of(self._context, row, len(self._ids))
        data = self._candidates.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        return llama.llama_token_data_array(data, len(self._ids), -1, False)

    def _choose(self, array: Any) -> int:
        llama.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise SamplingFailed(f"no token is left to choose from after {self._count} tokens")
        token: int = array.data[array.selected].id
        return token

    def _allowed(self, token: int) -> bool:
        one = llama.llama_token_data(token, 1.0, 0.0)
        array = llama.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
        llama.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return math.isfinite(one.logit)


def logits_of(context: Any, row: int, vocab_size: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The logits of one batch row, in llama.cpp's own memory: valid until the next decode."""
    return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, row), shape=(vocab_size,))


def make_sampler(
    params: SamplingParams,
    *,
    context: Any,
    vocab: Any,
    vocab_size: int,
    ctx: int,
    history: Sequence[int],
    banned: Sequence[int],
) -> ChainSampler | GrammarSampler:
    """A fresh sampler; `history` is the prompt, which penalties look back on; `banned` tokens are never chosen.

    Raises SamplingFailed when the grammar does not parse.
    """
    params = _bounded(params, ctx)
    grammar = _grammar(params.grammar, vocab) if params.grammar else None
    options = llama.llama_sampler_chain_default_params()
    options.no_perf = True
    chain = llama.llama_sampler_chain_init(options)
    for part in _parts(params, vocab, vocab_size, banned):
        llama.llama_sampler_chain_add(chain, part)
    for token in _remembered(params, history):
        llama.llama_sampler_accept(chain, token)
    if grammar is None:
        return ChainSampler(context, chain)
    return GrammarSampler(context, chain, grammar, vocab_size)


def _bounded(params: SamplingParams, ctx: int) -> SamplingParams:
    """The same with windows in tokens: -1 is the whole context, and none is longer."""

    def window(last_n: int) -> int:
        return ctx if last_n < 0 else min(last_n, ctx)

    return replace(
        params,
        repeat_last_n=window(params.repeat_last_n),
        dry_penalty_last_n=window(params.dry_penalty_last_n),
    )


def nesting(grammar: str) -> int:
    """How deep the brackets of a GBNF grammar are nested."""
    depth = deepest = 0
    for part in _GRAMMAR_PARTS.finditer(grammar):
        if part[0] == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif part[0] == ")":
            depth = max(0, depth - 1)
    return deepest


def _grammar(text: str, vocab: Any) -> Any:
    depth = nesting(text)
    if depth > DEEPEST_GRAMMAR:
        raise SamplingFailed(f"the grammar is nested too deeply: {depth} brackets, at most {DEEPEST_GRAMMAR}")
    LLAMA_LOG.complaints.clear()
    grammar = llama.llama_sampler_init_grammar(vocab, text.encode(), b"root")
    if not grammar:
        raise SamplingFailed(f"the grammar does not parse: {LLAMA_LOG.first_complaint('llama.cpp refuses it')}")
    return grammar


def _parts(params: SamplingParams, vocab: Any, vocab_size: int, banned: Sequence[int]) -> Iterator[Any]:
    """The parts of the chain that change anything, first to last; the last one chooses."""
    biases = [*params.logit_bias, *((token, -math.inf) for token in banned)]
    if biases:
        rows = (llama.llama_logit_bias * len(biases))(*(llama.llama_logit_bias(token, bias) for token, bias in biases))
        yield llama.llama_sampler_init_logit_bias(vocab_size, len(biases), rows)
    yield from _penalties(params, vocab, vocab_size)
    if params.temperature <= 0.0:
        yield llama.llama_sampler_init_greedy()
        return
    seed = secrets.randbits(32) if params.seed is None else params.seed
    if params.mirostat:
        yield llama.llama_sampler_init_temp(params.temperature)
        yield _mirostat(params, seed, vocab_size)
        return
    yield from _filters(params)
    if params.temperature != 1.0:
        yield llama.llama_sampler_init_temp(params.temperature)
    yield llama.llama_sampler_init_dist(seed)


def _penalties(params: SamplingParams, vocab: Any, vocab_size: int) -> Iterator[Any]:
    if _penalises(params):
        yield llama.llama_sampler_init_penalties(
            vocab_size,
            params.repeat_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.dry_multiplier > 0.0:
        breakers = (ctypes.c_char_p * len(DRY_BREAKERS))(*(text.encode() for text in DRY_BREAKERS))
        yield llama.llama_sampler_init_dry(
            vocab,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            params.dry_penalty_last_n,
            breakers,
            len(DRY_BREAKERS),
        )


def _filters(params: SamplingParams) -> Iterator[Any]:
    optional: tuple[tuple[bool, Callable[[], Any]], ...] = (
        (params.top_k > 0, lambda: llama.llama_sampler_init_top_k(params.top_k)),
        (params.typical_p < 1.0, lambda: llama.llama_sampler_init_typical(params.typical_p, 0)),
        (params.top_p < 1.0, lambda: llama.llama_sampler_init_top_p(params.top_p, 0)),
        (params.min_p > 0.0, lambda: llama.llama_sampler_init_min_p(params.min_p, 0)),
    )
    for wanted, make in optional:
        if wanted:
            yield make()


def _mirostat(params: SamplingParams, seed: int, vocab_size: int) -> Any:
    if params.mirostat == 1:
        return llama.llama_sampler_init_mirostat(
            vocab_size, seed, params.mirostat_tau, params.mirostat_eta, MIROSTAT_WINDOW
        )
    return llama.llama_sampler_init_mirostat_v2(seed, params.mirostat_tau, params.mirostat_eta)


def _penalises(params: SamplingParams) -> bool:
    neutral = params.repeat_penalty == 1.0 and params.frequency_penalty == 0.0 and params.presence_penalty == 0.0
    return params.repeat_last_n != 0 and not neutral


def _remembered(params: SamplingParams, history: Sequence[int]) -> Sequence[int]:
    """The end of the prompt that a penalty of this chain looks back on."""
    windows = [params.repeat_last_n] if _penalises(params) else []
    if params.dry_multiplier > 0.0 and params.dry_penalty_last_n:
        windows.append(params.dry_penalty_last_n)
    return history[-max(windows) :] if windows else ()
