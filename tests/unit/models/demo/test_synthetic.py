"""Random models of chosen size."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, TokenType
from gguf.quants import dequantize

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.demo.synthetic import SyntheticType, parse_count, sides_for, tensor_plans, write_synthetic


@pytest.mark.parametrize(("type_", "bytes_each"), [("q8_0", 34 / 32), ("f16", 2.0)])
def test_size_is_what_was_asked(type_: SyntheticType, bytes_each: float, tmp_path: Path) -> None:
    """About as many parameters as asked, each as large as its format says."""
    info = write_synthetic(tmp_path / "model.gguf", parameters=5_000_000, type=type_, context=4096)
    assert info.parameters == pytest.approx(5_000_000, rel=0.1)
    assert info.size_bytes == (tmp_path / "model.gguf").stat().st_size
    assert info.size_bytes == pytest.approx(info.parameters * bytes_each, rel=0.03)
    fields = GGUFReader(info.path).fields
    assert fields["llama.context_length"].contents() == info.context == 4096
    assert fields["llama.block_count"].contents() == info.layers
    assert fields["llama.embedding_length"].contents() == info.width


@pytest.mark.parametrize("asked", [5e6, 30e6, 120e6, 160e6, 1e9, 7e9])
def test_true_count_is_near(asked: float) -> None:
    """Whole layers bring the count within a tenth, with sides that are multiples of 32."""
    sides = sides_for(int(asked), 2048)
    true_count = sum(plan.rows * plan.columns for plan in tensor_plans(sides, 2048))
    assert true_count == pytest.approx(asked, rel=0.1)
    assert all(plan.columns % 32 == 0 and (plan.rows == 1 or plan.rows % 32 == 0) for plan in tensor_plans(sides, 2048))
    assert sides.heads * 64 == sides.width


def test_a_width_can_be_asked_for() -> None:
    """Wide rows, fewer layers, about the same count; a width without known sides is refused."""
    usual, wide = sides_for(150_000_000, 32_000), sides_for(150_000_000, 32_000, 1536)
    assert (usual.width, wide.width) == (768, 1536)
    assert wide.layers < usual.layers
    assert sum(plan.rows * plan.columns for plan in tensor_plans(wide, 32_000)) == pytest.approx(150e6, rel=0.1)
    with pytest.raises(ValueError, match="width 1000 is not one of"):
        sides_for(150_000_000, 32_000, 1000)


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    """Peers of a benchmark can each write their own copy."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic(tmp_path / name, parameters=3_000_000, seed=seed)
    one, two, three = ((tmp_path / name).read_bytes() for name in "abc")
    assert one == two
    assert one != three


def test_only_text_can_be_generated(tmp_path: Path) -> None:
    """The constant coordinate is positive for every token, no layer writes it, and EOS's row points against it."""
    reader = GGUFReader(write_synthetic(tmp_path / "model.gguf", parameters=3_000_000).path)
    weights = {one.name: dequantize(one.data, one.tensor_type) for one in reader.tensors}
    assert (weights["token_embd.weight"][:, 0] > 3).all()
    for name, values in weights.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            assert not values[0].any()
    types = np.array(reader.fields["tokenizer.ggml.token_type"].contents())
    against = weights["output.weight"][:, 0]
    assert (against[types != TokenType.NORMAL] < -40).all()
    assert not against[types == TokenType.NORMAL].any()
    assert types[reader.fields["tokenizer.ggml.eos_token_id"].contents()] == TokenType.CONTROL


def test_it_speaks_the_demo_models_vocabulary(tmp_path: Path) -> None:
    """Tokenizer and template are those of the shipped model; the quantised matrices are Q8_0."""
    made = GGUFReader(write_synthetic(tmp_path / "model.gguf", parameters=3_000_000).path)
    shipped = GGUFReader(DEMO_MODEL_PATH)
    for key in ("tokenizer.ggml.tokens", "tokenizer.chat_template", "tokenizer.ggml.eos_token_id"):
        assert made.fields[key].contents() == shipped.fields[key].contents()
    assert {one.tensor_type for one in made.tensors if len(one.shape) == 2} == {GGMLQuantizationType.Q8_0}


@pytest.mark.parametrize(
    ("text", "count"), [("120M", 120_000_000), ("1.5b", 1_500_000_000), ("64K", 64_000), ("77", 77)]
)
def test_counts(text: str, count: int) -> None:
    """Sizes as people write them."""
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "ten", "5G"])
def test_bad_counts(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_count(text)
