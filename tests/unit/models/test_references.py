"""Model references: what is accepted, what is refused, and that nothing raw is echoed."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.errors import ERROR_TABLE, Code, RbeeError
from daemons.contracts.ids import RUN_ID
from daemons.models.references import ACCEPTED_FORMS, MAX_LENGTH, ModelRef, RefKind, model_id, parse_model_ref


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("demo", ModelRef(RefKind.ALIAS, "demo")),
        ("file:///models/a.gguf", ModelRef(RefKind.FILE, "/models/a.gguf")),
        ("file:///models/without suffix é", ModelRef(RefKind.FILE, "/models/without suffix é")),
        ("file:///a%2e%2e/b", ModelRef(RefKind.FILE, "/a%2e%2e/b")),
        ("hf:org/repo", ModelRef(RefKind.HF, "org/repo")),
        ("hf:Org-1/re.po_2:Q4_K_M", ModelRef(RefKind.HF, "Org-1/re.po_2", quant="Q4_K_M")),
        ("hf:org/repo:ud-q4_k_xl", ModelRef(RefKind.HF, "org/repo", quant="UD-Q4_K_XL")),
        ("hf:org/repo/sub/a-00001-of-00002.gguf", ModelRef(RefKind.HF, "org/repo", file="sub/a-00001-of-00002.gguf")),
    ],
)
def test_accepted_forms(text: str, ref: ModelRef) -> None:
    """Each accepted form gives its parts; percent signs in paths mean themselves."""
    assert parse_model_ref(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Demo",
        "demo ",
        "llama",
        "/models/a.gguf",
        "http://host/a.gguf",
        "file:/models/a.gguf",
        "file://a.gguf",
        "file://host/a.gguf",
        "file://~/a.gguf",
        "file:///",
        "file:////a.gguf",
        "file:///a//b.gguf",
        "file:///a/",
        "file:///a/../b.gguf",
        "file:///a/./b.gguf",
        "file:///a\\b.gguf",
        "file:///a\nb.gguf",
        "file:///a\x1b[31mb.gguf",
        "file:///a\x00b.gguf",
        "file:///a\u202eb.gguf",
        "file:///a\udc80b.gguf",
        "hf:",
        "hf:org",
        "hf:org/",
        "hf:/repo",
        "hf:org/repo:",
        "hf:org/repo:Q4 K",
        "hf:org/repo:Q4:K",
        "hf:../repo",
        "hf:org/.repo",
        "hf:org/re po",
        "hf:org/repo/",
        "hf:org/repo/file.bin",
        "hf:org/repo/../file.gguf",
        "hf:org/repo//file.gguf",
        "hf:org/repo/file.gguf:Q4_0",
        "file:///" + "a" * MAX_LENGTH,
    ],
)
def test_refused_texts_name_the_accepted_forms(text: str) -> None:
    """Everything else is INVALID_MODEL_REF, and the message lists what would have been right."""
    with pytest.raises(RbeeError) as caught:
        parse_model_ref(text)
    assert caught.value.code is Code.INVALID_MODEL_REF
    assert all(form in caught.value.message for form in ACCEPTED_FORMS)
    assert caught.value.message.isascii() or "…" in caught.value.message


@given(st.text() | st.text(max_size=30).map("file:///".__add__) | st.text(max_size=30).map("hf:a/".__add__))
def test_any_text_is_parsed_or_refused_in_printable_words(text: str) -> None:
    """The parser never crashes; what it accepts is canonical; what it echoes is safe on a terminal."""
    try:
        ref = parse_model_ref(text)
    except RbeeError as error:
        assert error.code is Code.INVALID_MODEL_REF
        assert error.message.isprintable()
        assert str(error.details["model"]).isascii() or str(error.details["model"]).endswith("…")
    else:
        assert str(ref).isprintable()
        assert parse_model_ref(str(ref)) == ref
        assert ".." not in str(ref).split("/")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("/data/models/llama.gguf", "rbee infer --model file:///data/models/llama.gguf"),
        ("./llama.gguf", "rbee infer --model file:///absolute/path/llama.gguf"),
        ("llama.gguf", "rbee infer --model file:///absolute/path/llama.gguf"),
        ("/data/$(reboot).gguf", ERROR_TABLE[Code.INVALID_MODEL_REF].hint),
        ("llama", ERROR_TABLE[Code.INVALID_MODEL_REF].hint),
    ],
)
def test_a_path_is_told_how_to_be_written(text: str, hint: str) -> None:
    """A command to run next, of nothing but plain path characters."""
    with pytest.raises(RbeeError) as caught:
        parse_model_ref(text)
    assert caught.value.hint == hint


def test_canonical_text_joins_spellings() -> None:
    """Quantisations differ only in case, so they name one model and have one id."""
    lower, upper = parse_model_ref("hf:o/r:q4_0"), parse_model_ref("hf:o/r:Q4_0")
    assert str(lower) == "hf:o/r:Q4_0"
    assert model_id(lower) == model_id(upper)


def test_ids_are_stable_distinct_and_of_the_accepted_form() -> None:
    """Ids stand in databases and addresses: they must not change, nor need quoting."""
    texts = ("demo", "file:///a.gguf", "hf:o/r", "hf:o/r:Q4_0", "hf:o/r/a.gguf")
    ids = [model_id(parse_model_ref(text)) for text in texts]
    assert ids[0] == "m-2a97516c354b"
    assert len(set(ids)) == len(ids)
    assert all(RUN_ID.fullmatch(one) for one in ids)


def test_import_is_cheap() -> None:
    """The keeper refuses bad references before any network, and must not load more than the error table for it."""
    code = (
        "import sys; import daemons.models.references as r; "
        "print(sorted({'pydantic', 'numpy', 'gguf', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
