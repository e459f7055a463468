"""A small real HTTP server that speaks the chat completions protocol, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server does with one request."""

    text: str = "{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of a chat completion
    delay: float = 0.0
    drop: bool = False  # close the connection without a word
    usage: tuple[int, int] | None = (10, 5)


@dataclass
class Asked:
    """One request as it arrived."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    time: float


class Server:
    """Answers with ``answer(body, index)``, index counting requests from 0.

    Example:
        >>> with Server(lambda body, index: Answer(text="hello")) as server:
        ...     requests.post(server.base_url + "/chat/completions", ...)
    """

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer]) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._answer = answer

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            index = len(self.asked)
            headers = {key.lower(): value for key, value in request.headers.items()}
            self.asked.append(
                Asked(body=body, headers=headers, path=request.path, time=time.monotonic())
            )
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        answer = self._answer(body, index)
        time.sleep(answer.delay)
        with self._lock:
            self._at_once -= 1
        if answer.drop:
            request.close_connection = True
            request.connection.close()
            return
        content = answer.body if answer.body is not None else _completion(answer, body)
        try:
            request.send_response(answer.status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(content)))
            for key, value in answer.headers.items():
                request.send_header(key, value)
            request.end_headers()
            request.wfile.write(content)
        except OSError:  # the client did not wait
            request.close_connection = True


def _completion(answer: Answer, body: dict[str, Any]) -> bytes:
    if answer.status != 200:
        return json.dumps({"error": {"message": answer.text, "type": "x"}}).encode()
    message = {"role": "assistant", "content": answer.text}
    reply: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }
    if answer.usage is not None:
        given, made = answer.usage
        reply["usage"] = {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
        }
    return json.dumps(reply).encode()
