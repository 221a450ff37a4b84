"""Edits of a live registry file: good ones are taken over, bad ones change nothing and are said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from registry.catalog import Catalog
from registry.loading import CatalogHolder, ReloadStatus
from registry.watching import watch

INTERVAL_S = 0.02


def registry_text(version: int) -> str:
    """A registry in which every part names the version, so that a mixture would show."""
    entries = "".join(f"  - {{model_name: m{version}-{i}, backend: b{version}}}\n" for i in range(20))
    return (
        f"defaults: {{frontier: m{version}-0}}\nbackends:\n  - {{name: b{version}, kind: echo}}\n"
        f"models:\n{entries}# the end\n"
    )


def version_of(catalog: Catalog) -> int:
    """The one version that every part of the catalog names."""
    names = {*catalog.models, *catalog.backends, catalog.frontier.model_name}
    versions = {name.split("-")[0][1:] for name in names}
    assert len(versions) == 1, f"a mixture: {versions}"
    assert len(catalog.models) == 20
    return int(versions.pop())


BAD = (
    lambda version: registry_text(version).replace("frontier: m", "frontier: x"),
    lambda version: registry_text(version).replace("models:", "modles:"),
    lambda version: registry_text(version)[:60],
    lambda _version: "",
    lambda _version: "\x00\x01",
)


def write_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def write_and_rename(path: Path, text: str) -> None:
    other = path.with_suffix(".tmp")
    other.write_text(text)
    other.replace(path)


@pytest.fixture
def holder(tmp_path: Path) -> CatalogHolder:
    path = tmp_path / "registry.yaml"
    path.write_text(registry_text(0))
    return CatalogHolder(path)


@contextlib.asynccontextmanager
async def watched(holder: CatalogHolder) -> AsyncIterator[list[ReloadStatus]]:
    reports: list[ReloadStatus] = []
    task = asyncio.create_task(watch(holder, INTERVAL_S, reports.append))
    try:
        yield reports
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is awaited may be a file's effect
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("write", [write_in_place, write_and_rename])
async def test_a_good_edit_is_taken_over_however_the_editor_writes(
    holder: CatalogHolder, write: Callable[[Path, str], None]
) -> None:
    async with watched(holder) as reports:
        write(holder.path, registry_text(1))
        await until(lambda: version_of(holder.catalog) == 1)
        await asyncio.sleep(5 * INTERVAL_S)
    assert [(status.ok, status.reloads_total) for status in reports] == [(True, 1)]
    assert reports[0].digest == holder.catalog.digest


async def test_a_bad_edit_keeps_the_last_good_catalog_and_is_reported_once(holder: CatalogHolder) -> None:
    before = holder.catalog
    async with watched(holder) as reports:
        holder.path.write_text(registry_text(1).replace("models:", "modles:"))
        await until(lambda: not holder.status.ok)
        await asyncio.sleep(10 * INTERVAL_S)
        assert holder.catalog is before
        assert [status.failures_total for status in reports] == [1]
        assert "did you mean models?" in (holder.status.error or "")
        assert holder.status.digest == before.digest
        holder.path.write_text(registry_text(2))
        await until(lambda: holder.status.ok)
    assert version_of(holder.catalog) == 2
    assert (holder.status.reloads_total, holder.status.failures_total) == (1, 1)


async def test_undoing_a_bad_edit_makes_the_status_good_again(holder: CatalogHolder) -> None:
    async with watched(holder):
        holder.path.write_text("nonsense: true\n")
        await until(lambda: not holder.status.ok)
        holder.path.write_text(registry_text(0))
        await until(lambda: holder.status.ok)
    assert version_of(holder.catalog) == 0


async def test_a_deleted_file_keeps_the_catalog_until_it_is_back(holder: CatalogHolder) -> None:
    async with watched(holder):
        holder.path.unlink()
        await until(lambda: not holder.status.ok)
        assert version_of(holder.catalog) == 0
        holder.path.write_text(registry_text(3))
        await until(lambda: version_of(holder.catalog) == 3)


async def test_an_edit_that_keeps_size_and_times_is_seen(holder: CatalogHolder) -> None:
    async with watched(holder):
        await asyncio.sleep(5 * INTERVAL_S)
        stat = holder.path.stat()
        holder.path.write_text(registry_text(4))
        os.utime(holder.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert holder.path.stat().st_size == stat.st_size
        await until(lambda: version_of(holder.catalog) == 4)


async def test_a_file_written_in_pieces_is_taken_when_it_is_whole(holder: CatalogHolder) -> None:
    text = registry_text(5)
    async with watched(holder) as reports:
        with holder.path.open("w") as stream:
            for start in range(0, len(text), 40):
                stream.write(text[start : start + 40])
                stream.flush()
                await asyncio.sleep(0.01)
        await until(lambda: version_of(holder.catalog) == 5)
    assert [status.ok for status in reports] == [True]


async def test_a_missing_adapter_that_arrives_later_mends_the_registry(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    good = "defaults: {frontier: m}\nbackends: [{name: b, kind: embedded, model: x}]\n"
    good += "models: [{model_name: m, backend: b}]\n"
    active = "specialists: [{name: s, digest: 'abcdefabcdef', base: m, adapter: a, clusters: [c], stage: active}]\n"
    path.write_text(good)
    holder = CatalogHolder(path)
    async with watched(holder):
        path.write_text(good + active)
        await until(lambda: not holder.status.ok)
        assert not holder.catalog.specialists
        adapter = tmp_path / "a"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"")
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        await until(lambda: holder.status.ok)
    assert holder.catalog.resolve("s") == "s@abcdefabcdef"


def test_a_hundred_alternating_edits_never_show_half_a_catalog(holder: CatalogHolder) -> None:
    seen: set[int] = set()
    problems: list[BaseException] = []
    done = threading.Event()

    def read_all_the_time() -> None:
        try:
            while not done.is_set():
                seen.add(version_of(holder.catalog))
        except BaseException as error:
            problems.append(error)

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    try:
        for version in range(1, 51):
            holder.path.write_text(BAD[version % len(BAD)](version))
            assert not holder.reload().ok
            assert version_of(holder.catalog) == version - 1
            holder.path.write_text(registry_text(version))
            assert holder.reload().ok
            assert version_of(holder.catalog) == version
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert len(seen) > 1
    assert (holder.status.reloads_total, holder.status.failures_total) == (50, 50)
