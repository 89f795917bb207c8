"""A small server that speaks OpenAI's chat protocol, for tests: `python chat_server.py MODEL`.

What it answers is written in the prompt, as JSON: ``say`` (a list of words), ``delay`` (seconds
before each), ``fail`` (statuses to answer first), ``finish``, ``cut`` (close after so many words).
Any other prompt is answered with the hash of the image's pixels. ``/seen`` tells what it saw.
Its port is the first line that it prints.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

SEEN: dict[str, Any] = {"requests": 0, "open": 0, "most": 0, "left": 0, "keys": [], "bodies": []}
TRIES: dict[str, int] = {}
LOCK = threading.Lock()


def pixels(image: Image.Image) -> str:
    return hashlib.sha256(
        image.mode.encode() + str(image.size).encode() + image.tobytes()
    ).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = ""
    is_open = False
    key = os.environ.get("CHAT_SERVER_KEY")

    def do_GET(self) -> None:
        path = self.path.removeprefix("/v1")
        if path == "/seen":
            return self._json(200, SEEN)
        if path == "/health":
            return self._json(200, {})
        if self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            return self._json(401, {"error": {"message": "Incorrect API key"}})
        if path == "/models":
            return self._json(200, {"data": [{"id": self.model, "owned_by": "chat_server"}]})
        return self._json(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._begin(body)
        try:
            self._chat(body)
        except (BrokenPipeError, ConnectionResetError):
            with LOCK:
                SEEN["left"] += 1
        finally:
            self._end()

    def _begin(self, body: dict[str, Any]) -> None:
        with LOCK:
            SEEN["requests"] += 1
            SEEN["open"] += 1
            SEEN["most"] = max(SEEN["most"], SEEN["open"])
            SEEN["keys"].append(self.headers.get("Authorization"))
            SEEN["bodies"].append({k: v for k, v in body.items() if k != "messages"})
        self.is_open = True

    def _end(self) -> None:
        """Before the last that the client waits for: it may ask again while this thread sleeps."""
        with LOCK:
            SEEN["open"] -= self.is_open
        self.is_open = False

    def _chat(self, body: dict[str, Any]) -> None:
        *images, text = body["messages"][0]["content"]
        if not text["text"].startswith("{"):
            order: dict[str, Any] = {"say": ["see ", *(self._hash(image) for image in images)]}
        else:
            order = json.loads(text["text"])
        with LOCK:
            number = TRIES[text["text"]] = TRIES.get(text["text"], -1) + 1
        if number < len(fail := order.get("fail", [])):
            status, words = fail[number], order.get("words", "as ordered")
            return self._json(status, {"error": {"message": words}}, order.get("headers", {}))
        words = order["say"]
        if "raw" in order:
            return self._json(200, order["raw"])
        if body["stream"]:
            return self._stream(order, words, bool(body.get("logprobs")))
        time.sleep(order.get("delay", 0))
        logprobs = {"content": [{"logprob": -0.5} for _ in words]} if body.get("logprobs") else None
        choice = {
            "message": {"content": "".join(words)},
            "finish_reason": order.get("finish", "stop"),
            "logprobs": logprobs,
        }
        usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
        return self._json(200, {"choices": [choice], "usage": usage})

    def _stream(self, order: dict[str, Any], words: list[str], logprobs: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        begin = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        self._event({"choices": [begin], "error": None})
        for number, word in enumerate(words):
            time.sleep(order.get("delay", 0))
            if number == order.get("cut"):
                self.close_connection = True
                return
            choice: dict[str, Any] = {"delta": {"content": word}, "finish_reason": None}
            if logprobs:
                choice["logprobs"] = {"content": [{"logprob": -0.25 * (number + 1)}]}
            self._event({"choices": [choice]})
        if "error" in order:
            return self._event({"error": order["error"]})
        end = {"delta": {}, "finish_reason": order.get("finish", "stop")}
        self._event({"choices": [end]})
        usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
        self._end()
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, event: dict[str, Any]) -> None:
        # As vLLM writes it: only what JSON itself wants is escaped.
        self.wfile.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def _hash(self, item: dict[str, Any]) -> str:
        data = item["image_url"]["url"].partition(",")[2]
        return pixels(Image.open(io.BytesIO(base64.b64decode(data))))

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self._end()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve(port: int, model: str) -> None:
    Handler.model = model
    server = Server(("127.0.0.1", port), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(0, sys.argv[1])
