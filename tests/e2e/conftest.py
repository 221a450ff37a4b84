from collections.abc import Iterator

import pytest

from tests.e2e.gateway_process import GatewayProcess, running_gateway


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A live gateway on the echo backend, shared by the tests of one session."""
    with running_gateway(tmp_path_factory.mktemp("gateway")) as process:
        yield process
