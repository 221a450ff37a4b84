"""A fitted classifier in the state folder finds what the table does not; it is exchanged while serving."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from pipelines.classifier_rows import workload_calls
from pipelines.fit_classifier import fit_classifier
from pipelines.workload import Workload

NOBODY = "version: 1\nclusters: []\n"


@pytest.fixture(scope="module")
def calls():
    return list(workload_calls(Workload.parse("own:3:70")))


@pytest.fixture(scope="module")
def fitted(calls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "classifier"
    fit_classifier(calls).save(folder)
    return folder


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "clusters.yaml").write_text(NOBODY)
    return folder


async def cluster_of(client, call):
    messages = [{"role": "system", "content": call.fixed.system}] if call.fixed.system else []
    body = {"messages": [*messages, {"role": "user", "content": call.text}]}
    response = await client.post("/v1/ask", json=body)
    plan = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    view = (await client.get(f"/v1/plans/{plan['id']}")).json()
    return view["cluster_id"], view["cluster_source"]


async def test_a_classifier_in_the_state_folder_names_clusters(make_client, policies, calls, fitted, tmp_path) -> None:
    shutil.copytree(fitted, tmp_path / "state" / "classifier")
    client = await make_client(policies=policies)
    some = [call for call in calls[::7] if call.fixed.system]
    found = [await cluster_of(client, call) for call in some]
    right = sum(cluster == call.cluster for (cluster, _), call in zip(found, some, strict=True))
    assert right / len(some) > 0.9
    assert {source for cluster, source in found if cluster != "unknown"} == {"learned"}
    assert 'journeyman_classified_total{source="learned"}' in (await client.get("/metrics")).text


async def test_a_new_fit_is_taken_up_and_a_damaged_one_is_not(make_client, policies, calls, fitted, tmp_path) -> None:
    client = await make_client(policies=policies, reload_interval_s=0.05)
    call = next(call for call in calls if call.fixed.system)
    assert await cluster_of(client, call) == ("unknown", "none")
    shutil.copytree(fitted, tmp_path / "state" / "classifier")
    await until(lambda: cluster_of(client, call), (call.cluster, "learned"))

    for path in (tmp_path / "state" / "classifier").iterdir():
        if path.name != "manifest.json":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))
    manifest = tmp_path / "state" / "classifier" / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"digest": "f" * len(told["digest"])}))

    async def trouble():
        return "classifier" in " ".join((await client.get("/readyz")).json()["trouble"])

    await until(trouble, True)
    assert await cluster_of(client, call) == (call.cluster, "learned"), "the last good one serves on"


async def until(ask, wanted):
    for _ in range(100):
        if await ask() == wanted:
            return
        await asyncio.sleep(0.05)
    assert await ask() == wanted
