"""One model in one llama.cpp context, as the engine's thread uses it."""

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import DecodeStatus, ModelInfo, Span
from daemons.worker.engine.llama.library import LLAMA_LOG, device_pointer, prepare
from daemons.worker.engine.llama.readers import Readers
from daemons.worker.engine.llama.sampler import ChainSampler, GrammarSampler, logits_of, make_sampler
from daemons.worker.engine.request import SamplingParams, TokenLogprobs

DEFAULT_CTX = 8192
"""Tokens per slot where neither request nor model ask for less."""

OUTPUTS = 64
"""Rows per batch that may have logits beside one per slot: what an embedding step needs. Keeps buffers small."""

FLASH_ATTENTION_AUTO = -1
ALL_LAYERS = -1
NO_CELLS = 1

_MEMORY_WORDS = ("out of memory", "failed to allocate", "unable to allocate", "cudamalloc failed", "not enough")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What to load and where to. `ctx` is tokens per slot, 0: the model's up to 8192. `device` '' is the CPU."""

    model_path: str
    slots: int = 4
    ctx: int = 0
    batch: int = 512
    threads: int = 1
    device: str = ""
    mmap: bool = True


class LlamaBackend:
    """The engine's backend on llama.cpp: cells per slot, flash attention where llama.cpp chooses it."""

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        self._model: Any = None
        self._context: Any = None
        self._memory: Any = None
        self._vocab: Any = None
        self._info: ModelInfo | None = None
        self._pieces: list[bytes | None] = []
        self._ends: frozenset[int] = frozenset()
        self._sliding_window = 0
        self._readers = Readers()

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise RuntimeError("the model is not loaded")
        return self._info

    # -- loading -------------------------------------------------------------------------------------------------

    def load(self, progress: Callable[[float], bool]) -> None:
        prepare()
        self._load_model(progress)
        self._vocab = llama.llama_model_get_vocab(self._model)
        size = int(llama.llama_vocab_n_tokens(self._vocab))
        self._pieces = [None] * size
        self._ends = frozenset(token for token in range(size) if llama.llama_vocab_is_eog(self._vocab, token))
        self._sliding_window = int(llama.llama_model_n_swa(self._model))
        self._make_context()
        self._batch = _Batch(self.options.batch)
        self._warm_up()

    def _load_model(self, progress: Callable[[float], bool]) -> None:
        path = Path(self.options.model_path)
        if not path.is_file():
            raise RbeeError(Code.MODEL_NOT_FOUND, f"no model file at {path}", details={"path": str(path)})
        stopped = False

        def told(fraction: float, _user_data: Any) -> bool:
            nonlocal stopped
            stopped = not progress(fraction)
            return not stopped

        callback = llama.llama_progress_callback(told)
        devices = device_list(self.options.device)  # llama.cpp keeps only its address: alive until the load returns
        parameters = model_parameters(self.options, devices)
        parameters.progress_callback = callback
        LLAMA_LOG.complaints.clear()
        self._model = llama.llama_model_load_from_file(str(path).encode(), parameters)
        if self._model:
            return
        if stopped:
            raise RbeeError(Code.CANCELLED, "loading was stopped")
        raise load_error(f"llama.cpp cannot load {path.name}", {"path": str(path), "bytes": path.stat().st_size})

    def _make_context(self) -> None:
        trained = int(llama.llama_model_n_ctx_train(self._model))
        whole = self._pools()
        ctx = self.options.ctx or min(trained, DEFAULT_CTX)
        if whole:  # the model attends to the whole text at once, so a text is one batch
            ctx = min(ctx, self.options.batch)
        parameters = context_parameters(self.options, ctx, every_output=whole)
        LLAMA_LOG.complaints.clear()
        self._context = llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise load_error(
                f"llama.cpp cannot make a context of {ctx} tokens x {self.options.slots} slots",
                {"ctx": ctx, "slots": self.options.slots},
            )
        self._memory = llama.llama_get_memory(self._context)
        self._info = self._describe(ctx, trained)

    def _pools(self) -> bool:
        """Whether this is an embedding model: it attends without a causal mask, or pools by itself."""
        architecture = self._metadata("general.architecture")
        causal = self._metadata(f"{architecture}.attention.causal") != "false"
        return not causal or self._metadata(f"{architecture}.pooling_type") not in ("", "0")

    def _describe(self, ctx: int, trained: int) -> ModelInfo:
        description = ctypes.create_string_buffer(256)
        llama.llama_model_desc(self._model, description, len(description))
        template = llama.llama_model_chat_template(self._model, None)
        whole = self._pools()
        return ModelInfo(
            description=description.value.decode("utf-8", "replace"),
            ctx=ctx,
            ctx_train=trained,
            cells=int(llama.llama_n_ctx(self._context)),
            vocab_size=len(self._pieces),
            embedding_size=int(llama.llama_model_n_embd_out(self._model)),
            size_bytes=int(llama.llama_model_size(self._model)),
            parameters=int(llama.llama_model_n_params(self._model)),
            add_bos=bool(llama.llama_vocab_get_add_bos(self._vocab)),
            bos=self._text_of(int(llama.llama_vocab_bos(self._vocab))),
            eos=self._text_of(int(llama.llama_vocab_eos(self._vocab))),
            chat_template=template.decode("utf-8", "replace") if template else None,
            generates=not whole and not llama.llama_model_has_encoder(self._model),
            embedding_chunk=ctx if whole else min(OUTPUTS, self.options.batch),
        )

    def _metadata(self, key: str) -> str:
        """A value of the GGUF header as text; empty when there is none."""
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def _text_of(self, token: int) -> str:
        """How a special token is written; empty when the vocabulary has none."""
        text = llama.llama_vocab_get_text(self._vocab, token) if token >= 0 else None
        return text.decode("utf-8", "replace") if text else ""

    def _warm_up(self) -> None:
        """Compute one token, so that the first request does not pay for first-touch memory and kernel set-up."""
        if self.info.generates:
            self.decode([Span(0, 0, (0,), True)])
            self.truncate(0, 0)

    def close(self) -> None:
        """Free everything once nobody reads the vocabulary; who asks for it later gets RbeeError(DRAINING)."""
        self._readers.close()
        if self._context:
            llama.llama_free(self._context)
        if self._model:
            llama.llama_model_free(self._model)
        self._context = self._model = self._vocab = None

    # -- vocabulary ----------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Thread-safe, as are `piece` and `grammar_of_schema`."""
        with self._readers.reading():
            return self._tokenize(text.encode(), add_special, parse_special)

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        size = len(data) + 2  # at most one token per byte, BOS and EOS
        tokens = (llama.llama_token * size)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, size, add_special, parse_special)
        if count < 0:
            tokens = (llama.llama_token * -count)()
            count = llama.llama_tokenize(self._vocab, data, len(data), tokens, -count, add_special, parse_special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        piece = self._pieces[token]
        if piece is None:
            with self._readers.reading():
                piece = self._pieces[token] = self._read_piece(token, 64)
        return piece

    def _read_piece(self, token: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        length = llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
        return self._read_piece(token, -length) if length < 0 else buffer.raw[:length]

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def grammar_of_schema(self, schema: str) -> str:
        try:
            return strict_strings(str(json_schema_to_gbnf(schema)))
        except RecursionError:
            raise ValueError("the schema is nested too deeply") from None
        except Exception as error:  # the converter raises whatever its dictionary look-ups raise
            raise ValueError(str(error) or f"llama.cpp's converter failed with {type(error).__name__}") from None

    # -- computing -----------------------------------------------------------------------------------------------

    def decode(self, batch: Sequence[Span]) -> DecodeStatus:
        status: int = llama.llama_decode(self._context, self._batch.fill(batch))
        if not status:
            return DecodeStatus.OK
        return DecodeStatus.NO_CELLS if status == NO_CELLS else DecodeStatus.FAILED

    def embed(self, span: Span) -> list[float] | None:
        llama.llama_set_embeddings(self._context, True)
        try:
            if llama.llama_decode(self._context, self._batch.fill([span], every_output=True)):
                return None
            return self._embedding_sum(span)
        finally:
            llama.llama_set_embeddings(self._context, False)

    def _embedding_sum(self, span: Span) -> list[float] | None:
        size = self.info.embedding_size
        if llama.llama_pooling_type(self._context) != llama.LLAMA_POOLING_TYPE_NONE:
            pooled = llama.llama_get_embeddings_seq(self._context, span.sequence)
            return [float(value) for value in pooled[:size]] if pooled else None
        rows = llama.llama_get_embeddings(self._context)
        if not rows:
            return None
        matrix = np.ctypeslib.as_array(rows, shape=(len(span.tokens), size))
        return [float(value) for value in matrix.sum(axis=0, dtype=np.float64)]

    def sampler(
        self, params: SamplingParams, prompt: Sequence[int], *, ignore_eos: bool
    ) -> ChainSampler | GrammarSampler:
        return make_sampler(
            params,
            context=self._context,
            vocab=self._vocab,
            vocab_size=self.info.vocab_size,
            ctx=self.info.ctx,
            history=prompt,
            banned=sorted(self._ends) if ignore_eos else (),
        )

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprobs:
        logits = logits_of(self._context, row, self.info.vocab_size).astype(np.float64)
        values = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        count = min(top, len(values))
        best = np.argpartition(-values, count - 1)[:count]
        ranked = best[np.argsort(-values[best], kind="stable")]
        return TokenLogprobs(float(values[token]), tuple((int(index), float(values[index])) for index in ranked))

    # -- memory --------------------------------------------------------------------------------------------------

    def reusable(self, sequence: int, length: int) -> bool:
        """llama-server's rule: all that the next token attends to must still be there (sliding window, recurrent)."""
        first: int = llama.llama_memory_seq_pos_min(self._memory, sequence)
        return first == 0 or 0 < first < max(0, length - self._sliding_window)

    def truncate(self, sequence: int, length: int) -> bool:
        return not self._memory or bool(llama.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy(self, source: int, target: int, length: int) -> bool:
        """Between sequences with cells of their own llama.cpp copies everything or nothing; the rest is cut off."""
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.truncate(target, length)


_LAX_CHARACTERS = {r'[^"\\] | "\\"': r'[^"\\\x7F\x00-\x1F] | "\\"', r"[^\x0A\x0D]": r'[^"\\\x7F\x00-\x1F]'}


def strict_strings(grammar: str) -> str:
    """The converter lets control characters (and, for a pattern's dot, quotes) into strings; JSON does not."""
    for lax, strict in _LAX_CHARACTERS.items():
        grammar = grammar.replace(lax, strict)
    return grammar


class _Batch:
    """A `llama_batch` over arrays that are allocated once; filling it makes no ctypes object per token."""

    def __init__(self, size: int) -> None:
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._sequences = (ctypes.c_int32 * size)()
        self._outputs = (ctypes.c_int8 * size)()
        self._ones = (ctypes.c_int32 * size)(*([1] * size))
        width = ctypes.sizeof(ctypes.c_int32)
        pointer = ctypes.POINTER(ctypes.c_int32)
        first = ctypes.addressof(self._sequences)
        self._rows = (pointer * size)(
            *(ctypes.cast(ctypes.c_void_p(first + width * row), pointer) for row in range(size))
        )
        self._struct = llama.llama_batch(
            0, self._tokens, None, self._positions, self._ones, self._rows, ctypes.cast(self._outputs, _BYTES)
        )

    def fill(self, spans: Sequence[Span], *, every_output: bool = False) -> Any:
        tokens, positions, sequences, outputs = self._tokens, self._positions, self._sequences, self._outputs
        row = 0
        for sequence, position, chunk, output in spans:
            size = len(chunk)
            if size == 1:
                tokens[row], positions[row], sequences[row] = chunk[0], position, sequence
            else:
                end = row + size
                tokens[row:end] = list(chunk)
                positions[row:end] = list(range(position, position + size))
                sequences[row:end] = [sequence] * size
                outputs[row:end] = [every_output] * size
            row += size
            outputs[row - 1] = output or every_output
        self._struct.n_tokens = row
        return self._struct


_BYTES = ctypes.POINTER(ctypes.c_int8)


def device_list(name: str) -> Any:
    """A NULL-terminated array with the device of that name; empty for the CPU. Raises RbeeError(DEVICE_NOT_FOUND)."""
    if not name:
        return (ctypes.c_void_p * 1)(None)
    pointer = device_pointer(name)
    if pointer is None:
        raise RbeeError(
            Code.DEVICE_NOT_FOUND, f"llama.cpp has no device {name!r} on this machine", details={"device": name}
        )
    return (ctypes.c_void_p * 2)(pointer, None)


def model_parameters(options: LoadOptions, devices: Any) -> Any:
    """llama.cpp's defaults, everything on one device."""
    parameters = llama.llama_model_default_params()
    if not options.mmap:
        parameters.load_mode = llama.LLAMA_LOAD_MODE_NONE
    parameters.devices = ctypes.cast(devices, ctypes.c_void_p)
    parameters.n_gpu_layers = ALL_LAYERS if options.device else 0
    if options.device:
        parameters.split_mode = llama.LLAMA_SPLIT_MODE_NONE
    return parameters


def context_parameters(options: LoadOptions, ctx: int, *, every_output: bool) -> Any:
    """llama-server's settings, for `slots` sequences of `ctx` tokens, each with cells of its own."""
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = ctx * options.slots
    parameters.n_batch = options.batch
    parameters.n_ubatch = options.batch
    parameters.n_seq_max = options.slots
    parameters.n_outputs_max = 0 if every_output else min(options.batch, max(options.slots, OUTPUTS))
    parameters.n_threads = options.threads
    parameters.n_threads_batch = options.threads
    parameters.flash_attn_type = FLASH_ATTENTION_AUTO
    parameters.offload_kqv = bool(options.device)
    parameters.op_offload = bool(options.device)
    parameters.kv_unified = False
    parameters.swa_full = False
    parameters.no_perf = True
    return parameters


def load_error(what: str, details: dict[str, Any]) -> RbeeError:
    """Tell "out of memory" from "not a model" by what llama.cpp said."""
    said = LLAMA_LOG.first_complaint("it gave no reason")
    complaints = " ".join(LLAMA_LOG.complaints).lower()
    memory = any(word in complaints for word in _MEMORY_WORDS)
    with contextlib.suppress(OSError):
        details["memory_available_bytes"] = _memory_available()
    return RbeeError(Code.WORKER_OOM if memory else Code.MODEL_INVALID, f"{what}: {said}", details=details)


def _memory_available() -> int:
    """Bytes that Linux would give to a new process (`MemAvailable`); OSError elsewhere."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable in /proc/meminfo")
