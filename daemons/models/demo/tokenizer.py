"""The demo model's tokenizer: SentencePiece BPE of 2,048 pieces with byte fallback, so that any UTF-8 survives."""

from __future__ import annotations

import string
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from daemons.models.demo.corpus import END, START, Document, documents, plain_text

VOCABULARY = 2048
UNKNOWN_ID, BOS_ID, START_ID, END_ID = range(4)


class PieceTable(NamedTuple):
    """Vocabulary in id order; `types` are GGUF token types (1 normal, 2 unknown, 3 control, 6 byte)."""

    texts: list[str]
    scores: list[float]
    types: list[int]


def train_tokenizer(prefix: Path, *, seed: int, samples: int = 30_000) -> Path:
    """Learn the pieces from `samples` documents and write `<prefix>.model`; deterministic for a seed."""
    import sentencepiece

    lines = (line for document in islice(documents(seed), samples) for line in plain_text(document).split("\n") if line)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(prefix), model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
        character_coverage=1.0, required_chars=string.digits + string.ascii_letters + string.punctuation,
        control_symbols=[START, END], unk_id=UNKNOWN_ID, bos_id=BOS_ID, eos_id=-1, pad_id=-1, bos_piece="<s>",
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    return prefix.with_name(prefix.name + ".model")


class DemoTokenizer:
    """Text to ids and back, with the control tokens added by hand as llama.cpp does for special tokens."""

    def __init__(self, model: Path) -> None:
        import sentencepiece

        self._pieces: Any = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without BOS; control tokens in the text are not recognised."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids; control tokens vanish."""
        text: str = self._pieces.decode(ids)
        return text

    def encode_document(self, document: Document) -> tuple[list[int], list[bool]]:
        """Ids with BOS in front, and for each id whether it is a target of the loss."""
        special = {START: START_ID, END: END_ID}
        ids, learn = [BOS_ID], [False]
        for segment in document:
            part = [special[segment.text]] if segment.special else self.encode(segment.text)
            ids += part
            learn += [segment.learn] * len(part)
        return ids, learn

    def table(self) -> PieceTable:
        """Every piece with score and type, for the GGUF header."""
        pieces, table = self._pieces, PieceTable([], [], [])
        for index in range(pieces.get_piece_size()):
            kind = (
                2 if pieces.is_unknown(index) else 3 if pieces.is_control(index) else 6 if pieces.is_byte(index) else 1
            )
            table.texts.append(pieces.id_to_piece(index))
            table.scores.append(pieces.get_score(index))
            table.types.append(kind)
        return table
