"""A loopback server of completions that answers the intents of `curated_calls` as a specialist would."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.unit.curated_calls import WORDS


class SpecialistServer:
    """`served` is its list of models; a prompt that holds a text of `wrong` is answered wrongly, and surely."""

    def __init__(self):
        self.served = set()
        self.wrong = ()
        self.unsure = ()
        self.prompts = []
        self.fails_after = None
        self.url = ""

    def answer(self, prompt):
        """Text and sum of log-probabilities."""
        intent = next(intent for intent, words in WORDS.items() if any(one in prompt for one in words))
        if any(text in prompt for text in self.wrong):
            intent = "pay_bill" if intent != "pay_bill" else "transfer"
        return json.dumps({"intent": intent}), -5.0 if any(text in prompt for text in self.unsure) else -0.1


@contextmanager
def specialist_server():
    """Serve on a free port until the end."""
    server = SpecialistServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65_536  # head and body in one packet: else each answer waits for a delayed acknowledgement

        def do_GET(self):
            self._send(200, {"data": [{"id": name} for name in sorted(server.served)]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if server.fails_after is not None and len(server.prompts) >= server.fails_after:
                self._send(500, {"error": {"message": "out of memory"}})
                return
            server.prompts.append(body["prompt"])
            text, logprob = server.answer(body["prompt"])
            choice = {
                "index": 0,
                "text": text,
                "finish_reason": "stop",
                "logprobs": {"tokens": [text], "token_logprobs": [logprob], "top_logprobs": None},
            }
            usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
            self._send(200, {"id": "x", "object": "text_completion", "choices": [choice], "usage": usage})

        def _send(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
