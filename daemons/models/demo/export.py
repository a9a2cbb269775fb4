"""Write the demo model as GGUF, from a training checkpoint or from the shipped file.

`python -m daemons.models.demo.export --variant f16|q8_0|q4_0 --out FILE` derives a variant of the shipped model with
numpy and gguf alone; `--checkpoint DIR` starts from the folder that `train` wrote (needs the extra `demo-model`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from daemons.models.demo import DEMO_MODEL_PATH

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML. It writes the BOS itself, so the runtime must not add a second one."""

VARIANTS: dict[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}

_TENSOR_NAMES = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.query.weight": "attn_q.weight",
    "attention.key.weight": "attn_k.weight",
    "attention.value.weight": "attn_v.weight",
    "attention.output.weight": "attn_output.weight",
    "feed_norm.weight": "ffn_norm.weight",
    "gate.weight": "ffn_gate.weight",
    "up.weight": "ffn_up.weight",
    "down.weight": "ffn_down.weight",
}

Matrix = NDArray[np.float32]

SHARPNESS = 1.5
"""All logits of the written model are times this: at the usual temperature of 0.7 commands must come out right, and
the network, trained on one right answer among many wordings, is less sure of them than it should be."""


def gguf_name(name: str) -> str:
    """GGUF's name for a parameter of `network.DemoNetwork`."""
    if name == "embedding.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_TENSOR_NAMES[rest]}"


def add_tensor(writer: GGUFWriter, name: str, values: Matrix, variant: str) -> None:
    """Add one tensor: vectors stay float32, and the embedding, also the output head, never gets less than 8 bits."""
    kind = VARIANTS[variant][0]
    if values.ndim == 1:
        writer.add_tensor(name, values.astype(np.float32))
    elif kind is GGMLQuantizationType.F16:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        if name == "token_embd.weight":
            kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)


def finish(writer: GGUFWriter) -> None:
    """Write everything that was added and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_checkpoint(folder: Path, out: Path, variant: str) -> Path:
    """Write `folder`'s tokenizer.model and checkpoint.pt as one GGUF file."""
    import torch

    from daemons.models.demo.network import Shape
    from daemons.models.demo.tokenizer import BOS_ID, END_ID, UNKNOWN_ID, DemoTokenizer

    shape, table = Shape(), DemoTokenizer(folder / "tokenizer.model").table()
    writer = GGUFWriter(out, "llama")
    writer.add_name("rbee demo")
    writer.add_description("Tiny model trained on generated text: rbee's commands and short stories about bees.")
    writer.add_license("Apache-2.0")
    writer.add_file_type(VARIANTS[variant][1])
    writer.add_quantization_version(2)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(table.texts)
    writer.add_token_scores(table.scores)
    writer.add_token_types(table.types)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(END_ID)
    writer.add_unk_token_id(UNKNOWN_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)
    weights["norm.weight"] *= SHARPNESS
    for name, values in weights.items():
        add_tensor(writer, gguf_name(name), values.float().numpy(), variant)
    finish(writer)
    return out


def copy_metadata(reader: GGUFReader, writer: GGUFWriter, replaced: dict[str, Any]) -> None:
    """Copy every key of a GGUF file but the architecture, which the writer has; `replaced` gives new values."""
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value: Any = replaced.get(field.name, field.contents())
        sub_type = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type)


def matrices(reader: GGUFReader) -> Iterator[tuple[str, Matrix]]:
    """Every tensor of a GGUF file as float32, matrices as (rows, columns)."""
    for tensor in reader.tensors:
        yield tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def derive_variant(variant: str, out: Path, source: Path = DEMO_MODEL_PATH) -> Path:
    """Write `source` again in another number format. Raises `KeyError` for a variant that is not in VARIANTS."""
    file_type = VARIANTS[variant][1]
    reader = GGUFReader(source)
    writer = GGUFWriter(out, "llama")
    copy_metadata(reader, writer, {"general.file_type": int(file_type)})
    for name, values in matrices(reader):
        add_tensor(writer, name, values, variant)
    finish(writer)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a variant of rbee's demo model.")
    parser.add_argument("--variant", choices=sorted(VARIANTS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="folder written by daemons.models.demo.train")
    arguments = parser.parse_args()
    if arguments.checkpoint is None:
        derive_variant(arguments.variant, arguments.out)
    else:
        export_checkpoint(arguments.checkpoint, arguments.out, arguments.variant)
    print(arguments.out)


if __name__ == "__main__":
    main()
