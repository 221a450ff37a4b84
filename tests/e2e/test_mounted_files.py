"""A gateway whose registry and keys are mounted as Kubernetes mounts them: links to a folder that is swapped whole."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from router_service import key_file
from tests.e2e.gateway_process import ECHO_REGISTRY, GatewayProcess, running_gateway


class Mount:
    """A ConfigMap or Secret as the kubelet lays it out: FILE -> ..data/FILE, ..data -> ..VERSION."""

    def __init__(self, folder: Path, mode: int) -> None:
        self._folder, self._mode, self._version = folder, mode, 0
        folder.mkdir()

    def put(self, name: str, content: bytes) -> Path:
        """Bring a new version of the one file, as a whole and at once."""
        self._version += 1
        version = self._folder / f"..{self._version}"
        version.mkdir()
        (version / name).write_bytes(content)
        (version / name).chmod(self._mode)
        fresh = self._folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self._folder / "..data")
        link = self._folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
        return link


def models(gateway: GatewayProcess, key: str) -> set[str]:
    """Names of the models that a key is shown; none when it is refused."""
    asked = urllib.request.Request(gateway.url + "/v1/models", headers={"authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return {model["id"] for model in json.load(answer)["data"]}
    except urllib.error.HTTPError as error:
        assert error.code == 401
        return set()


def wait_until(holds: Callable[[], bool], most_s: float = 15.0) -> bool:
    end = time.monotonic() + most_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_a_swapped_mount_brings_a_new_registry_and_new_keys_to_a_running_gateway(tmp_path: Path) -> None:
    made = tmp_path / "made" / key_file.NAME
    first = key_file.add(made, "acme", "caller")
    secret, config = Mount(tmp_path / "secret", 0o440), Mount(tmp_path / "config", 0o644)
    keys = secret.put(key_file.NAME, made.read_bytes())
    registry = config.put("registry.yaml", ECHO_REGISTRY.encode())
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / key_file.NAME).symlink_to(keys)

    with running_gateway(tmp_path, ECHO_REGISTRY, "--registry", str(registry)) as gateway:
        assert "echo:slow" not in models(gateway, first.secret) and "echo" in models(gateway, first.secret)
        assert models(gateway, "jmk_unknown") == set()

        more = ECHO_REGISTRY + '  - {model_name: "echo:slow", backend: echo, supported_clusters: []}\n'
        config.put("registry.yaml", more.encode())
        assert wait_until(lambda: "echo:slow" in models(gateway, first.secret))

        second = key_file.add(made, "rival", "caller")
        key_file.revoke(made, first.entry.id)
        secret.put(key_file.NAME, made.read_bytes())
        assert wait_until(lambda: bool(models(gateway, second.secret)))
        assert models(gateway, first.secret) == set()
