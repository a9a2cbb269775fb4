"""What the layers of a model keep between two steps, and what the widest of them needs during one.

Pure. Follows `llama_hparams`, `llama_model::create_memory` and the `load_arch_hparams` of llama.cpp, in the version
that llama-cpp-python 0.3.36 contains. Where a header leaves open how the layers are arranged, each counts as full
attention, which is never less than what llama.cpp takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from daemons.models.gguf_file import SkippedArray, Value

MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS."""

_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_RECURRENT_AND_ATTENTION = frozenset({"falcon-h1"})
_NO_CACHE = frozenset(
    {
        "bert",
        "modern-bert",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "nomic-bert",
        "nomic-bert-moe",
        "gemma-embedding",
    }
)
_SLIDING_PERIODS = {
    "afmoe": 4, "cohere2": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "mellum": 4, "olmo2": 4,
    "plamo3": 8,
}  # fmt: skip
"""The last of so many layers sees the whole text, the others a window, where the header names only the window."""

_LAYERS_WITH_OWN_CACHE = {"gemma3n": 20}
"""The first so many layers own a cache that the others read, where the header does not say so."""


class FieldMissing(LookupError):
    """A field that llama.cpp requires is absent, or not of the type or size that it must have."""


@dataclass(frozen=True, slots=True)
class ArchitectureFields:
    """The metadata fields of one architecture, by the name after its prefix."""

    architecture: str
    fields: Mapping[str, Value]

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number. Raises FieldMissing when it is absent without a default, or of another type."""
        value = self.fields.get(f"{self.architecture}.{name}", default)
        if isinstance(value, int) and value >= 0:
            return int(value)
        raise FieldMissing(f"{self.architecture}.{name}")

    def per_layer(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A field that is one number for all layers or an array with one for each."""
        value = self.fields.get(f"{self.architecture}.{name}", default)
        layers = self.layers()
        if not isinstance(value, tuple | SkippedArray):
            return (self.number(name),) * layers
        if isinstance(value, SkippedArray) or len(value) < layers or any(item < 0 for item in value):
            raise FieldMissing(f"{self.architecture}.{name} with a number for each of {layers} layers")
        return tuple(int(item) for item in value[:layers])

    def layers(self) -> int:
        """Number of layers. Raises FieldMissing when it is absent or more than llama.cpp takes."""
        layers = self.number("block_count")
        if not 0 < layers <= MAX_LAYERS:
            raise FieldMissing(f"{self.architecture}.block_count between 1 and {MAX_LAYERS}")
        return layers

    def heads(self) -> tuple[int, ...]:
        """Query heads of each layer; zeros in models without attention."""
        return self.per_layer("attention.head_count", (0,) * self.layers())

    def kv_heads(self) -> tuple[int, ...]:
        """Key and value heads of each layer: fewer than query heads where they share (grouped-query attention)."""
        return self.per_layer("attention.head_count_kv", self.heads())

    def head_lengths(self) -> tuple[int, int]:
        """Numbers in the key and in the value of one head."""
        first = self.heads()[0]
        usual = self.number("embedding_length") // first if first else 0
        return self.number("attention.key_length", usual), self.number("attention.value_length", usual)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Counts of numbers, not bytes.

    `cache_values` and `sliding_cache_values`: cached for each token (keys and values together) by all layers that see
    the whole text, and by all that see a window of it. `state_values`: kept by one recurrent layer for each sequence.
    `step_values`: held for each token of a batch while the widest layer computes.
    """

    cache_values: int
    sliding_cache_values: int
    state_values: int
    recurrent_layers: int
    step_values: int


def layer_shape(fields: ArchitectureFields) -> LayerShape:
    """Raises FieldMissing when the header lacks what every model of this kind has."""
    recurrent = _recurrent_layers(fields)
    cached = _cached_values(fields)
    if fields.architecture not in _RECURRENT_AND_ATTENTION:
        cached = tuple(0 if skip else values for values, skip in zip(cached, recurrent, strict=True))
    sliding = sum(values for values, slides in zip(cached, _sliding_layers(fields), strict=True) if slides)
    return LayerShape(
        cache_values=sum(cached) - sliding,
        sliding_cache_values=sliding,
        state_values=_state_values(fields),
        recurrent_layers=sum(recurrent),
        step_values=_step_values(fields),
    )


def _cached_values(fields: ArchitectureFields) -> tuple[int, ...]:
    """Numbers per token and layer, as if every layer were an attention layer."""
    layers = fields.layers()
    if fields.architecture in _NO_CACHE:
        return (0,) * layers
    full, sliding = _cached_per_head(fields)
    owners = min(
        layers - fields.number("attention.shared_kv_layers", 0),
        _LAYERS_WITH_OWN_CACHE.get(fields.architecture, layers),
    )
    rows = zip(fields.kv_heads(), _sliding_layers(fields), strict=True)
    return tuple(
        heads * (sliding if slides else full) if layer < owners else 0 for layer, (heads, slides) in enumerate(rows)
    )


def _cached_per_head(fields: ArchitectureFields) -> tuple[int, int]:
    """Numbers per head and token: of layers that see the whole text, of those that see a window."""
    key, value = fields.head_lengths()
    if fields.number("attention.key_length_mla", 0):
        return key, key  # latent attention reads its values out of the cached keys
    sliding_key = fields.number("attention.key_length_swa", key)
    return key + value, sliding_key + fields.number("attention.value_length_swa", value)


def _sliding_layers(fields: ArchitectureFields) -> tuple[bool, ...]:
    layers = fields.layers()
    if not fields.number("attention.sliding_window", 0):
        return (False,) * layers
    name = "attention.sliding_window_pattern"
    stated = fields.fields.get(f"{fields.architecture}.{name}")
    if isinstance(stated, tuple):
        return tuple(bool(flag) for flag in fields.per_layer(name, ()))
    period = _SLIDING_PERIODS.get(fields.architecture, 1)
    if period > 1 and stated is not None:
        period = max(1, fields.number(name))
    return tuple(layer % period < period - 1 for layer in range(layers))


def _recurrent_layers(fields: ArchitectureFields) -> tuple[bool, ...]:
    layers = fields.layers()
    if fields.architecture in _RECURRENT | _RECURRENT_AND_ATTENTION:
        return (True,) * layers
    if not _state_values(fields):
        return (False,) * layers
    if interval := fields.number("full_attention_interval", 0):
        trunk = layers - fields.number("nextn_predict_layers", 0)
        usual = tuple(int(layer < trunk and (layer + 1) % interval != 0) for layer in range(layers))
    else:
        usual = tuple(int(not heads) for heads in fields.kv_heads())
    return tuple(bool(flag) for flag in fields.per_layer("attention.recurrent_layers", usual))


def _state_values(fields: ArchitectureFields) -> int:
    """Convolution window and state of one recurrent layer: `llama_hparams::n_embd_r` and `n_embd_s`."""
    width = fields.number("embedding_length")
    if head := fields.number("wkv.head_size", 0):
        return fields.number("token_shift_count", 2) * width + width * head
    if window := fields.number("shortconv.l_cache", 0):
        return width * (window - 1)
    if head := fields.number("kda.head_dim", 0):
        inner = max(fields.heads()) * head
        return 3 * max(0, fields.number("ssm.conv_kernel", 4) - 1) * inner + head * inner
    state, inner = fields.number("ssm.state_size", 0), fields.number("ssm.inner_size", 0)
    channels = inner + 2 * fields.number("ssm.group_count", 0) * state
    return max(0, fields.number("ssm.conv_kernel", 1) - 1) * channels + state * inner


def _step_values(fields: ArchitectureFields) -> int:
    """Largest sum of intermediate results that are alive at once, per token.

    Fitted to the compute buffers that llama.cpp reserves for models with a vocabulary so small that only the layers
    count; `daemons.models.fit` tells how well. The terms: a dense or expert feed-forward, the sum of the experts'
    results, attention, and a state-space layer.
    """
    width, zeros = fields.number("embedding_length"), (0,) * fields.layers()
    experts = max(fields.per_layer("expert_used_count", zeros))
    expert_hidden = experts * max(fields.per_layer("expert_feed_forward_length", zeros))
    hidden = max(*fields.per_layer("feed_forward_length", zeros), expert_hidden)
    key, _ = fields.head_lengths()
    query, keys = max(fields.heads()) * key, max(fields.kv_heads()) * key
    return max(
        3 * hidden + 5 * width,
        2 * (experts + 2) * width + query if experts else 0,
        2 * (query + width) + 4 * keys,
        7 * fields.number("ssm.inner_size", 0) + width,
    )
