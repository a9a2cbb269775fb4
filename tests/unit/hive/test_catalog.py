"""References lead to files inside of the allowed folders, and to nothing else."""

from collections.abc import AsyncIterator

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.hive.catalog import Catalog
from daemons.hive.clock import SteadyClock
from daemons.hive.store import HiveStore
from daemons.kit.paths import Paths
from daemons.models.demo import DEMO_MODEL_PATH


@pytest.fixture
async def catalog(paths: Paths) -> AsyncIterator[Catalog]:
    store = HiveStore.at(paths.database("hive"), paths.backups)
    await store.open(now=0.0, history_days=30.0)
    yield Catalog(store, [paths.models], SteadyClock(), "local")
    await store.close()


async def test_the_shipped_model_is_there(catalog: Catalog) -> None:
    facts = await catalog.find("demo")
    assert (facts.ref, facts.path, facts.header.architecture) == ("demo", str(DEMO_MODEL_PATH), "llama")


async def test_a_file_by_its_real_path(catalog: Catalog, paths: Paths) -> None:
    (paths.models / "real.gguf").write_bytes(DEMO_MODEL_PATH.read_bytes())
    (paths.models / "link.gguf").symlink_to(paths.models / "real.gguf")
    facts = await catalog.find(f"file://{paths.models}/link.gguf")
    assert facts.ref == f"file://{paths.models}/link.gguf"
    assert facts.path == str(paths.models / "real.gguf")


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        ("hf:org/repo", Code.MODEL_NOT_FOUND),
        ("nonsense", Code.INVALID_MODEL_REF),
        ("file:///etc/hostname", Code.MODEL_PATH_FORBIDDEN),
        ("file://{models}/../hive.duckdb", Code.INVALID_MODEL_REF),
        ("file://{models}/none.gguf", Code.MODEL_NOT_FOUND),
        ("file://{models}/text.gguf", Code.MODEL_INVALID),
        ("file://{models}/way-out.gguf", Code.MODEL_PATH_FORBIDDEN),
    ],
)
async def test_what_cannot_be_used_is_refused(catalog: Catalog, paths: Paths, ref: str, code: Code) -> None:
    (paths.models / "text.gguf").write_text("not a model")
    (paths.models / "way-out.gguf").symlink_to("/etc/hostname")
    with pytest.raises(RbeeError) as failure:
        await catalog.find(ref.format(models=paths.models))
    assert failure.value.code is code


async def test_rows_are_the_shipped_model_and_what_was_seen_and_is_still_there(catalog: Catalog, paths: Paths) -> None:
    (only,) = await catalog.rows(set())
    assert (only.ref, only.loaded, only.size_bytes) == ("demo", False, DEMO_MODEL_PATH.stat().st_size)
    path = paths.models / "mine.gguf"
    path.write_bytes(DEMO_MODEL_PATH.read_bytes())
    ref = (await catalog.find(f"file://{path}")).ref
    rows = {row.ref: row for row in await catalog.rows({ref})}
    assert (rows["demo"].loaded, rows[ref].loaded) == (False, True)
    assert rows[ref].id != rows["demo"].id
    path.unlink()
    assert [row.ref for row in await catalog.rows(set())] == ["demo"]
