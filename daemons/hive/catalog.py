"""Models of this machine: where a reference lies, what its header says, which are loaded."""

import asyncio
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import ModelRow
from daemons.hive.clock import SteadyClock
from daemons.hive.core.placement import ModelFacts
from daemons.hive.store import HiveStore, SeenModel
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.headers import GgufHeader, read_header
from daemons.models.locations import resolve_file_ref
from daemons.models.references import DEMO_ALIAS, ModelRef, RefKind, model_id, parse_model_ref


class Catalog:
    """Finds models: the one that ships with rbee, and files inside of `folders`."""

    def __init__(self, store: HiveStore, folders: Sequence[Path], clock: SteadyClock, node: str) -> None:
        self._store = store
        self._folders = tuple(folders)
        self._clock = clock
        self._node = node

    async def find(self, text: str) -> ModelFacts:
        """The model that a reference names, with its header read.

        Raises RbeeError: INVALID_MODEL_REF, MODEL_PATH_FORBIDDEN, MODEL_NOT_FOUND, MODEL_INVALID.
        """
        ref = parse_model_ref(text)
        facts = await asyncio.to_thread(self._read, ref)
        self._store.saw_model(_seen(ref, facts), self._clock.now())
        return facts

    def _read(self, ref: ModelRef) -> ModelFacts:
        if ref.kind is RefKind.ALIAS:
            path = DEMO_MODEL_PATH
        elif ref.kind is RefKind.FILE:
            path = resolve_file_ref(ref, self._folders)
        else:
            raise RbeeError(
                Code.MODEL_NOT_FOUND,
                f"{ref} is not on this node, and this version downloads nothing; it has the model {DEMO_ALIAS!r}, and "
                f"files in {', '.join(map(str, self._folders))} are named file:///folder/model.gguf",
                details={"model": str(ref), "node": self._node},
            )
        return ModelFacts(str(ref), str(path), read_header(path))

    async def rows(self, loaded: Collection[str]) -> list[ModelRow]:
        """The shipped model, and every file seen before that is still there. `loaded`: references in use."""
        seen = {row.ref: row for row in await self._store.models()}
        if DEMO_ALIAS not in seen:
            ref = parse_model_ref(DEMO_ALIAS)
            seen = {DEMO_ALIAS: _seen(ref, await asyncio.to_thread(self._read, ref)), **seen}
        there = await asyncio.to_thread(lambda: [row for row in seen.values() if os.path.isfile(row.path)])
        return [self._row(row, row.ref in loaded) for row in there]

    def _row(self, seen: SeenModel, loaded: bool) -> ModelRow:
        return ModelRow(
            id=seen.id,
            ref=seen.ref,
            node=self._node,
            path=seen.path,
            size_bytes=seen.size_bytes,
            architecture=seen.architecture,
            parameters=seen.parameters,
            quantisation=seen.quantisation,
            context_length=seen.context_length,
            loaded=loaded,
        )


def _seen(ref: ModelRef, facts: ModelFacts) -> SeenModel:
    header: GgufHeader = facts.header
    return SeenModel(
        ref=facts.ref,
        id=model_id(ref),
        path=facts.path,
        size_bytes=header.file_bytes,
        architecture=header.architecture,
        quantisation=header.quantisation,
        parameters=header.parameters,
        context_length=header.context_length,
    )
