"""Cache and state of the layers, by hand for the published sizes of known models."""

from typing import Any

import pytest

from daemons.models.gguf_file import SkippedArray
from daemons.models.layer_shape import ArchitectureFields, FieldMissing, LayerShape, layer_shape


def shape_of(architecture: str, **fields: Any) -> LayerShape:
    """`_` in names stands for itself, `__` for a dot."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in fields.items()}
    return layer_shape(ArchitectureFields(architecture, named))


LLAMA3: dict[str, Any] = {
    "block_count": 32, "embedding_length": 4096, "feed_forward_length": 14336,
    "attention__head_count": 32, "attention__head_count_kv": 8,
}  # fmt: skip


def test_grouped_query_attention() -> None:
    """Llama 3 8B caches 128 KiB per token in f16: 2 x 32 layers x 8 heads x 128 x 2 bytes."""
    shape = shape_of("llama", **LLAMA3)
    assert shape.cache_values * 2 == 128 * 1024
    assert (shape.sliding_cache_values, shape.state_values, shape.recurrent_layers) == (0, 0, 0)


def test_without_kv_heads_every_head_has_its_own() -> None:
    """Llama 2 7B states no KV heads: 512 KiB per token."""
    fields = {name: value for name, value in LLAMA3.items() if name != "attention__head_count_kv"}
    assert shape_of("llama", **fields).cache_values * 2 == 512 * 1024


def test_heads_and_lengths_that_differ() -> None:
    """Arrays count per layer; stated lengths of keys and values win over the width."""
    fields = {**LLAMA3, "block_count": 3, "attention__head_count_kv": (0, 2, 8)}
    assert shape_of("deci", **fields).cache_values == (2 + 8) * 256
    lengths = {"attention__key_length": 192, "attention__value_length": 128}
    assert shape_of("llama", **fields | lengths).cache_values == (2 + 8) * 320


@pytest.mark.parametrize(
    ("architecture", "pattern", "sliding"),
    [
        ("gemma3", None, 10),
        ("gpt-oss", None, 6),
        ("gpt-oss", 4, 9),
        ("llama", None, 0),
        ("new-model", (1, 0, 1) * 4, 8),
        ("new-model", 3, 0),
    ],
)
def test_sliding_layers(architecture: str, pattern: Any, sliding: int) -> None:
    """Of 12 layers those that see a window: by the architecture's period, the header's, or its list."""
    fields = {**LLAMA3, "block_count": 12, "attention__sliding_window": 1024}
    if pattern is not None:
        fields["attention__sliding_window_pattern"] = pattern
    shape = shape_of(architecture, **fields)
    assert shape.sliding_cache_values == sliding * 2048
    assert shape.cache_values == (12 - sliding) * 2048


def test_sliding_layers_with_heads_and_shared_caches_of_their_own() -> None:
    """As in Gemma 4: shorter heads in sliding layers, and the last layers read the caches of earlier ones."""
    shape = shape_of(
        "gemma4",
        **{**LLAMA3, "block_count": 4},
        attention__sliding_window=512,
        attention__sliding_window_pattern=(True, True, False, True),
        attention__key_length=512,
        attention__value_length=512,
        attention__key_length_swa=256,
        attention__value_length_swa=256,
        attention__shared_kv_layers=1,
    )
    assert (shape.sliding_cache_values, shape.cache_values) == (2 * 8 * 512, 8 * 1024)


def test_latent_attention_caches_no_values() -> None:
    """DeepSeek V2 Lite: 576 numbers per token and layer."""
    shape = shape_of(
        "deepseek2",
        **{**LLAMA3, "block_count": 27, "attention__head_count": 16, "attention__head_count_kv": 1},
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
    )
    assert shape.cache_values == 27 * 576


def test_recurrent_models_cache_states_only() -> None:
    """Mamba 2.8B: 23.75 MiB for each sequence, whatever its length."""
    shape = shape_of(
        "mamba",
        block_count=64,
        embedding_length=2560,
        ssm__conv_kernel=4,
        ssm__inner_size=5120,
        ssm__state_size=16,
    )
    assert (shape.cache_values, shape.recurrent_layers) == (0, 64)
    assert shape.state_values * 64 * 4 == 23.75 * 2**20


HYBRID: dict[str, Any] = {
    "ssm__conv_kernel": 4, "ssm__inner_size": 4096, "ssm__state_size": 128, "ssm__group_count": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "fields", "recurrent", "attention"),
    [
        ("qwen35", {"full_attention_interval": 4}, 24, 8),
        ("qwen35", {"full_attention_interval": 4, "nextn_predict_layers": 3}, 22, 10),
        ("qwen35", {"attention__recurrent_layers": (1, 0) * 16}, 16, 16),
        ("jamba", {"attention__head_count_kv": (0, 0, 0, 8) * 8}, 24, 8),
        ("falcon-h1", {}, 32, 32),
    ],
)
def test_hybrid_models(architecture: str, fields: dict[str, Any], recurrent: int, attention: int) -> None:
    """Which layers keep a state and which a cache: by interval, by list, by heads, or both in each."""
    shape = shape_of(architecture, **{**LLAMA3, **HYBRID, **fields})
    assert shape.recurrent_layers == recurrent
    assert shape.cache_values == attention * 2048
    assert shape.state_values == 3 * 8192 + 128 * 4096


def test_short_convolutions_and_rwkv() -> None:
    """LFM2 keeps the window of a convolution, RWKV a matrix for each head."""
    kv_heads = (0, 8) * 16
    lfm = shape_of("lfm2", **{**LLAMA3, "attention__head_count_kv": kv_heads}, shortconv__l_cache=3)
    assert (lfm.state_values, lfm.recurrent_layers) == (2 * 4096, 16)
    rwkv = shape_of("rwkv6", block_count=24, embedding_length=2048, wkv__head_size=64)
    assert (rwkv.state_values, rwkv.cache_values) == (2 * 2048 + 64 * 2048, 0)


def test_encoders_cache_nothing() -> None:
    """BERT reads a text at once."""
    assert shape_of("bert", **LLAMA3).cache_values == 0


def test_widest_layer() -> None:
    """Feed-forward in dense models, the experts' results in mixtures, attention where heads are wide."""
    assert shape_of("llama", **LLAMA3).step_values == 3 * 14336 + 5 * 4096
    mixture = {**LLAMA3, "feed_forward_length": 0, "expert_used_count": 8, "expert_feed_forward_length": 768}
    assert shape_of("qwen3moe", **mixture).step_values == 20 * 4096 + 4096
    wide = {**LLAMA3, "feed_forward_length": 1024, "attention__key_length": 512, "attention__value_length": 512}
    assert shape_of("llama", **wide).step_values == 2 * (16384 + 4096) + 4 * 4096


def test_unusable_fields_are_named() -> None:
    """An array too long to be kept, or too short, is as good as none."""
    with pytest.raises(FieldMissing, match=r"llama\.attention\.head_count_kv"):
        shape_of("llama", **{**LLAMA3, "attention__head_count_kv": SkippedArray(4000)})
    with pytest.raises(FieldMissing, match=r"llama\.block_count between 1 and 512"):
        shape_of("llama", **{**LLAMA3, "block_count": 513})
