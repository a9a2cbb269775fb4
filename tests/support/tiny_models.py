"""Tiny GGUF files with random weights, of architectures whose memory is not a plain KV cache."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType

WIDTH, VOCABULARY = 64, 512


class TinyModel:
    """Writes one file; tensors in the order they are asked for, the same numbers each time."""

    def __init__(self, path: Path, architecture: str, layers: int) -> None:
        self.path = path
        self.layers = layers
        self._random = np.random.default_rng(0)
        self.writer = GGUFWriter(str(path), architecture)
        self.writer.add_context_length(2048)
        self.writer.add_embedding_length(WIDTH)
        self.writer.add_block_count(layers)
        self.writer.add_vocab_size(VOCABULARY)

    def byte_vocabulary(self) -> None:
        """Every byte is a token, so that all text tokenizes."""
        names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        types = [2, 3, 3, *[6] * 256]
        names += [f"w{index}" for index in range(len(names), VOCABULARY)]
        types += [1] * (VOCABULARY - len(types))
        self._vocabulary("llama", names, types)
        self.writer.add_token_scores([-float(index) for index in range(VOCABULARY)])
        self.writer.add_bos_token_id(1)
        self.writer.add_eos_token_id(2)
        self.writer.add_add_bos_token(True)
        self.writer.add_add_space_prefix(False)

    def word_vocabulary(self) -> None:
        """BERT's kind: letters at the beginning of words and inside them."""
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{letter}" for letter in letters), *letters]
        types = [3, 2, 3, 3, 3, *[1] * (VOCABULARY - 5)]
        names += [f"▁w{index}" for index in range(len(names), VOCABULARY)]
        self._vocabulary("bert", names, types)
        for name, token in (("unknown", 1), ("seperator", 3), ("padding", 0), ("cls", 2), ("mask", 4)):
            self.writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)

    def _vocabulary(self, kind: str, names: list[str], types: list[int]) -> None:
        self.writer.add_tokenizer_model(kind)
        self.writer.add_tokenizer_pre("default")
        self.writer.add_token_list(names)
        self.writer.add_token_types(types)

    def matrix(self, name: str, rows: int, columns: int, scale: float = 0.0) -> None:
        values = self._random.standard_normal((rows, columns)) * (scale or columns**-0.5)
        self.writer.add_tensor(name, values.astype(np.float32))

    def constant(self, name: str, value: float, *shape: int) -> None:
        self.writer.add_tensor(name, np.full(shape, value, dtype=np.float32))

    def write(self) -> Path:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.path


def recurrent_model(path: Path) -> Path:
    """Mamba: one state for a sequence, which cannot be taken back in part."""
    inner, state, rank = 128, 16, 8
    model = TinyModel(path, "mamba", 2)
    model.writer.add_feed_forward_length(0)
    model.writer.add_head_count(0)
    model.writer.add_ssm_conv_kernel(4)
    model.writer.add_ssm_inner_size(inner)
    model.writer.add_ssm_state_size(state)
    model.writer.add_ssm_time_step_rank(rank)
    model.writer.add_layer_norm_rms_eps(1e-5)
    model.byte_vocabulary()
    model.matrix("token_embd.weight", VOCABULARY, WIDTH, 1.0)
    model.constant("output_norm.weight", 1.0, WIDTH)
    for layer in range(model.layers):
        at = f"blk.{layer}."
        model.constant(at + "attn_norm.weight", 1.0, WIDTH)
        model.matrix(at + "ssm_in.weight", 2 * inner, WIDTH)
        model.matrix(at + "ssm_conv1d.weight", inner, 4)
        model.constant(at + "ssm_conv1d.bias", 0.0, inner)
        model.matrix(at + "ssm_x.weight", rank + 2 * state, inner)
        model.matrix(at + "ssm_dt.weight", inner, rank)
        model.constant(at + "ssm_dt.bias", 0.0, inner)
        model.constant(at + "ssm_a", -1.0, inner, state)
        model.constant(at + "ssm_d", 1.0, inner)
        model.matrix(at + "ssm_out.weight", WIDTH, inner)
    return model.write()


def sliding_model(path: Path, window: int) -> Path:
    """Gemma 3: five of six layers see the last `window` tokens only."""
    heads, kv_heads, head, hidden = 4, 2, 16, 128
    model = TinyModel(path, "gemma3", 6)
    model.writer.add_feed_forward_length(hidden)
    model.writer.add_head_count(heads)
    model.writer.add_head_count_kv(kv_heads)
    model.writer.add_key_length(head)
    model.writer.add_value_length(head)
    model.writer.add_sliding_window(window)
    model.writer.add_layer_norm_rms_eps(1e-6)
    model.byte_vocabulary()
    model.matrix("token_embd.weight", VOCABULARY, WIDTH, 0.5)
    model.constant("output_norm.weight", 1.0, WIDTH)
    for layer in range(model.layers):
        at = f"blk.{layer}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            model.constant(f"{at}{name}.weight", 1.0, WIDTH)
        for name in ("attn_q_norm", "attn_k_norm"):
            model.constant(f"{at}{name}.weight", 1.0, head)
        model.matrix(at + "attn_q.weight", heads * head, WIDTH)
        model.matrix(at + "attn_k.weight", kv_heads * head, WIDTH)
        model.matrix(at + "attn_v.weight", kv_heads * head, WIDTH)
        model.matrix(at + "attn_output.weight", WIDTH, heads * head)
        model.matrix(at + "ffn_gate.weight", hidden, WIDTH)
        model.matrix(at + "ffn_up.weight", hidden, WIDTH)
        model.matrix(at + "ffn_down.weight", WIDTH, hidden)
    return model.write()


def embedding_model(path: Path) -> Path:
    """BERT: no causal mask, no KV cache, mean pooling."""
    hidden = 128
    model = TinyModel(path, "bert", 2)
    model.writer.add_feed_forward_length(hidden)
    model.writer.add_head_count(4)
    model.writer.add_layer_norm_eps(1e-12)
    model.writer.add_causal_attention(False)
    model.writer.add_pooling_type(PoolingType.MEAN)
    model.writer.add_token_type_count(2)
    model.word_vocabulary()
    model.matrix("token_embd.weight", VOCABULARY, WIDTH, 1.0)
    model.matrix("position_embd.weight", 2048, WIDTH, 0.1)
    model.matrix("token_types.weight", 2, WIDTH, 0.1)
    _norm(model, "token_embd_norm")
    for layer in range(model.layers):
        at = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _linear(model, at + name, WIDTH, WIDTH)
        _norm(model, at + "attn_output_norm")
        _linear(model, at + "ffn_up", hidden, WIDTH)
        _linear(model, at + "ffn_down", WIDTH, hidden)
        _norm(model, at + "layer_output_norm")
    return model.write()


def _norm(model: TinyModel, name: str) -> None:
    model.constant(name + ".weight", 1.0, WIDTH)
    model.constant(name + ".bias", 0.0, WIDTH)


def _linear(model: TinyModel, name: str, rows: int, columns: int) -> None:
    model.matrix(name + ".weight", rows, columns)
    model.constant(name + ".bias", 0.0, rows)
