"""Feedback from those whose word should not move everybody's routing."""

from pathlib import Path

from tests.api.registries import cheap_first
from tests.api.test_learning import candidate, favourite, judge, plan_of

CHEAP = cheap_first("echo")


def policies(folder: Path, access: str) -> Path:
    folder.mkdir()
    (folder / "access.yaml").write_text(access)
    return folder


async def test_a_tenant_that_is_not_believed_moves_nothing(make_client, tmp_path: Path) -> None:
    client = await make_client(CHEAP, policies=policies(tmp_path / "p", "default: {teaches: false}\n"))
    for number in range(30):
        plan = await plan_of(client, f"hello {number}", model="cheap")
        await judge(client, plan["id"], outcome="failure")
    after = await plan_of(client)
    assert favourite(after) == "cheap" and candidate(after, "cheap")["expected_quality"] > 0.9
    assert 'journeyman_feedback_total{outcome="failure"} 30' in (await client.get("/metrics")).text, "yet recorded"


async def test_by_default_every_tenants_word_counts(make_client, tmp_path: Path) -> None:
    client = await make_client(CHEAP, policies=policies(tmp_path / "p", "default: {content_mode: redacted}\n"))
    for number in range(30):
        plan = await plan_of(client, f"hello {number}", model="cheap")
        await judge(client, plan["id"], outcome="failure")
    assert favourite(await plan_of(client)) == "frontier"
