from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from litestar.testing import AsyncTestClient

from router_service.app import create_app
from router_service.services import Services
from router_service.settings import Settings
from tests.api.registries import ECHO

MakeClient = Callable[..., AsyncTestClient]


@pytest.fixture
async def make_client(tmp_path: Path) -> AsyncIterator[MakeClient]:
    """Builds real services on a registry text and opens a client; closed at the end."""
    opened: list[AsyncTestClient] = []

    async def make(registry: str = ECHO, **settings: object) -> AsyncTestClient:
        path = tmp_path / "registry.yaml"
        path.write_text(registry)
        values = {"registry": path, "state": tmp_path / "state", "load_records": False} | settings
        services = Services(Settings(**values), {})
        client = AsyncTestClient(create_app(services.settings, services))
        client.services = services  # type: ignore[attr-defined]
        await client.__aenter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        await client.__aexit__(None, None, None)


@pytest.fixture
async def client(make_client: MakeClient) -> AsyncTestClient:
    return await make_client()
