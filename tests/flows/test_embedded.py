"""The embedded engine under supervision, with a small stand-in for the engine, and with the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time

import pytest
import uvloop

from registry.entries import BackendEntry
from registry.errors import BackendError, BackendUnavailableError
from specialists.adapters import AdapterSet
from specialists.calls import Call, Message, Sampling
from specialists.embedded import EmbeddedBackend
from specialists.server_adapters import Canary

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()


ENTRY = BackendEntry(name="engine", kind="embedded", max_retries=0)
ASK = Call("m", (Message("user", "who"),))

# Speaks the engine's command line and HTTP as far as supervision needs it; answers with its own process id.
STAND_IN = textwrap.dedent(
    """
    import http.server, json, os, pathlib, signal, sys
    mode, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    (folder / str(os.getpid())).touch()
    print("loading the weights", file=sys.stderr, flush=True)
    if mode == "broken":
        print("no such model: xyz", file=sys.stderr, flush=True)
        sys.exit(3)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    adapters = {}
    class Engine(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def log_message(self, *args): pass
        def reply(self, value, status=200):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        def do_GET(self):
            self.reply({"data": [{"id": "m"}, *({"id": name} for name in adapters)]})
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/v1/load_lora_adapter":
                if body["lora_name"] in adapters:
                    return self.reply({"error": {"message": "has already been loaded"}}, 400)
                if not pathlib.Path(body["lora_path"]).is_dir():
                    return self.reply({"error": {"message": "no adapter in " + body["lora_path"]}}, 400)
                adapters[body["lora_name"]] = body["lora_path"]
                return self.reply("ok")
            if self.path == "/v1/unload_lora_adapter":
                if adapters.pop(body["lora_name"], None) is None:
                    return self.reply({"error": {"message": "cannot be found"}}, 404)
                return self.reply("ok")
            if body["model"] not in ("m", *adapters):
                return self.reply({"error": {"message": "the model does not exist"}}, 404)
            text = f"{body['model']} {os.getpid()}"
            if self.path == "/v1/completions":
                text = adapters.get(body["model"], text)
            self.reply({"choices": [{"text": text, "message": {"content": text}, "finish_reason": "stop"}]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    print("a line that is not JSON", flush=True)
    print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    for _ in range(3000):
        print("x" * 100, flush=True)
    server.serve_forever()
    """
)


@pytest.fixture
async def engine(tmp_path, request):
    mode = getattr(request, "param", "good")
    pids = tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "engine.py"
    script.write_text(STAND_IN)
    backend = EmbeddedBackend(ENTRY, tmp_path, [sys.executable, str(script), mode, str(pids)])
    await backend.start()
    yield backend
    await backend.close()
    assert not any(is_alive(int(path.name)) for path in pids.iterdir())


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


async def until_healthy(backend):
    await until(lambda: backend.health().ok)


async def answering_pid(backend):
    return int((await backend.complete(ASK, 5000)).text.split()[1])


async def test_it_starts_answers_and_ends_with_us(engine):
    assert not engine.health().ok and "starting" in engine.health().reason
    with pytest.raises(BackendUnavailableError, match="starting"):
        await engine.complete(ASK, 5000)
    with pytest.raises(BackendUnavailableError, match="starting"):
        await anext(engine.stream(ASK, 5000))
    await until_healthy(engine)
    assert await answering_pid(engine) == engine.process.pid
    assert (await engine.probe()).ok
    await engine.close()
    assert not engine.health().ok


async def test_a_killed_engine_comes_back_with_its_adapters(engine, tmp_path):
    await until_healthy(engine)
    adapters = AdapterSet(engine)
    adapters.want({"a@0123456789ab": str(tmp_path)})
    await adapters.sync()
    before = engine.process.pid
    os.kill(before, signal.SIGKILL)
    await until(lambda: not engine.health().ok)
    assert "restarted" in engine.health().reason or "ended" in engine.health().reason
    await adapters.sync()
    assert not adapters.ready("a@0123456789ab")
    await until_healthy(engine)
    assert await answering_pid(engine) == engine.process.pid != before
    assert "a@0123456789ab" not in await engine.served_models()
    await adapters.sync()
    assert adapters.ready("a@0123456789ab")
    assert "a@0123456789ab" in await engine.served_models()
    assert (await engine.complete(Call("a@0123456789ab", ASK.messages), 5000)).text.startswith("a@")


@pytest.mark.parametrize("engine", ["broken"], indirect=True)
async def test_an_engine_that_cannot_start_says_why_and_is_not_started_in_a_frenzy(engine):
    await until(lambda: "no such model: xyz" in engine.health().reason)
    assert "status 3" in engine.health().reason
    await asyncio.sleep(1.2)
    assert engine.process.starts <= 3


@pytest.mark.parametrize("engine", ["stubborn"], indirect=True)
async def test_an_engine_that_ignores_the_polite_signal_is_killed(engine, monkeypatch):
    monkeypatch.setattr("specialists.engine_process.GENTLE_S", 0.2)
    await until_healthy(engine)
    pid = engine.process.pid
    await engine.close()
    assert not is_alive(pid)


async def test_a_missing_program_is_told(tmp_path):
    backend = EmbeddedBackend(ENTRY, tmp_path, [str(tmp_path / "nothing")])
    await backend.start()
    await until(lambda: "cannot be started" in backend.health().reason)
    await backend.close()


async def test_adapters_are_loaded_reported_reloaded_and_unloaded(engine, tmp_path):
    now = 0.0
    adapters = AdapterSet(engine, clock=lambda: now)
    adapters.want({"a@0123456789ab": str(tmp_path), "b@0123456789ab": "/not/there"})
    problems = await adapters.sync()
    assert not adapters.ready("a@0123456789ab") and "starting" in problems[0]
    assert await adapters.sync() == []  # said once
    await until_healthy(engine)
    problems = await adapters.sync()
    assert adapters.ready_names() == ["a@0123456789ab"]
    assert len(problems) == 1 and "no adapter in /not/there" in problems[0]
    assert await adapters.sync() == []  # not yet: a failed load waits

    await engine.unload_adapter("a@0123456789ab")  # as a restart would
    now = 20.0
    await adapters.sync()
    assert adapters.ready("a@0123456789ab") and "a@0123456789ab" in await engine.served_models()

    adapters.want({})
    assert not adapters.ready("a@0123456789ab")
    await adapters.sync()
    assert "a@0123456789ab" in await engine.served_models()  # calls may still be under way
    now = 60.0
    assert await adapters.sync() == []
    assert "a@0123456789ab" not in await engine.served_models()
    await engine.unload_adapter("a@0123456789ab")  # no error


async def test_an_adapter_that_fails_its_canary_is_not_ready(engine, tmp_path):
    await until_healthy(engine)
    adapters = AdapterSet(engine)
    right, wrong = "r@0123456789ab", "w@0123456789ab"
    canaries = {right: Canary("say", str(tmp_path)), wrong: Canary("say", "another text")}
    adapters.want({right: str(tmp_path), wrong: str(tmp_path)}, canaries)
    problems = await adapters.sync()
    assert adapters.ready_names() == [right]
    assert len(problems) == 1 and "another text" in problems[0]


@pytest.mark.engine
@pytest.mark.slow
async def test_the_real_engine_answers_and_is_restarted(tmp_path):
    pytest.importorskip("torch")
    backend = EmbeddedBackend(ENTRY, tmp_path)
    await backend.start()
    try:
        await until(lambda: backend.health().ok, 300)
        (model,) = await backend.served_models()
        call = Call(
            model,
            (Message("user", "What is the capital of France?"),),
            sampling=Sampling(max_tokens=12, temperature=0.0),
        )
        answer = await backend.complete(call, 60_000)
        assert "Paris" in answer.text and not answer.usage.estimated
        pieces = [delta async for delta in backend.stream(call, 60_000)]
        assert "".join(p.text for p in pieces) == answer.text
        os.kill(backend.process.pid, signal.SIGKILL)
        await until(lambda: not backend.health().ok)
        with contextlib.suppress(BackendError):
            await backend.complete(call, 1000)
        await until(lambda: backend.health().ok, 300)
        assert (await backend.complete(call, 60_000)).text == answer.text
    finally:
        await backend.close()
