"""Variants of the shipped model."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.demo.export import derive_variant, gguf_name, matrices

LIMITS = {"f16": 0.001, "q8_0": 0.0, "q4_0": 0.15}
TYPES = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}


@pytest.mark.parametrize("variant", sorted(LIMITS))
def test_variant_holds_the_same_weights(variant: str, tmp_path: Path) -> None:
    """Each tensor is the shipped one, as near as its number format allows (relative to its spread)."""
    read = GGUFReader(derive_variant(variant, tmp_path / "model.gguf"))
    assert read.fields["general.file_type"].contents() == {"f16": 1, "q8_0": 7, "q4_0": 2}[variant]
    assert next(t for t in read.tensors if t.name == "blk.0.attn_q.weight").tensor_type == TYPES[variant]
    shipped = dict(matrices(GGUFReader(DEMO_MODEL_PATH)))
    derived = dict(matrices(read))
    assert derived.keys() == shipped.keys()
    for name, values in derived.items():
        assert values.shape == shipped[name].shape
        assert np.abs(values - shipped[name]).mean() <= LIMITS[variant] * np.abs(shipped[name]).mean() + 1e-12


def test_variant_keeps_the_metadata(tmp_path: Path) -> None:
    """Only the number format changes: tokenizer and template are the same."""
    shipped = GGUFReader(DEMO_MODEL_PATH).fields
    derived = GGUFReader(derive_variant("f16", tmp_path / "model.gguf")).fields
    assert derived.keys() == shipped.keys()
    differing = {
        key for key in shipped if not key.startswith("GGUF.") and derived[key].contents() != shipped[key].contents()
    }
    assert differing == {"general.file_type"}


def test_sizes_fall_with_the_bits(tmp_path: Path) -> None:
    """F16 > Q8_0 > Q4_0."""
    sizes = [derive_variant(one, tmp_path / one).stat().st_size for one in ("f16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.7 * sizes[1] > 2.5 * sizes[2]


def test_names_of_parameters() -> None:
    """PyTorch's names become llama.cpp's."""
    assert gguf_name("embedding.weight") == "token_embd.weight"
    assert gguf_name("norm.weight") == "output_norm.weight"
    assert gguf_name("blocks.3.attention.key.weight") == "blk.3.attn_k.weight"
    assert gguf_name("blocks.0.down.weight") == "blk.0.ffn_down.weight"


def test_unknown_variant_is_refused(tmp_path: Path) -> None:
    """A typo does not quietly write something else."""
    with pytest.raises(KeyError):
        derive_variant("q3_k", tmp_path / "model.gguf")
