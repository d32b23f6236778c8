"""Runs a Python function for a Weir node. Standard library only.

The runtime imports the handler, then dials the node's Unix socket as many
times as it may run calls at once; that it dials says that it is ready. On each
connection it then answers HTTP/1.1 requests, one after the other, in a thread
of its own. When the node closes a connection its thread ends, and with the
last thread the process.

Environment: WEIR_SOCKET, WEIR_HANDLER (MODULE.FUNCTION), WEIR_SOURCE (folder
of the code), WEIR_CONCURRENCY, WEIR_FUNCTION, WEIR_MEMORY_BYTES.

Two kinds of handlers, told apart by the function's name:

* `handle(event, context)`, as in OpenFaaS templates: `event` has `body`
  (bytes), `headers`, `method`, `query`, `path`; the answer is a dict with
  `statusCode`, `body`, `headers`, or a plain value;
* any other name, `handler(params, context)`: `params` is the JSON object of the
  body over the parameters of the query; a dict, list, number, bool or None
  becomes JSON, `str` and `bytes` go out as they are, an iterator of those is
  streamed, and `(value, status)` or `(value, status, headers)` say more.
"""

import importlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from urllib.parse import parse_qsl, unquote

HEAD_BYTES = 256 << 10
"""Longest head of a request: more than a node lets through."""

REASONS = {200: "OK", 400: "Bad Request", 502: "Bad Gateway"}


class BadRequest(Exception):
    """The caller's fault: a 400 with this text."""


class Headers(dict):
    """Headers by name, whatever its case."""

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())

    def get(self, name, default=None):
        return super().get(name.lower(), default)


class Context:
    """What a handler may ask about its call."""

    __slots__ = ("method", "path", "query", "headers", "_until")

    function_name = os.environ.get("WEIR_FUNCTION", "")
    memory_bytes = int(os.environ.get("WEIR_MEMORY_BYTES") or 0)

    def __init__(self, method, path, query, headers):
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        left = headers.get("x-weir-deadline-ms")
        self._until = time.monotonic() + int(left) / 1000 if left else None

    @property
    def call_id(self):
        """The node's id of the call: the same whenever it is run again."""
        return self.headers.get("x-weir-call-id", "")

    def remaining(self):
        """Seconds until the call is given up; None for no such moment."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())


class Event:
    """A request as OpenFaaS templates have it."""

    __slots__ = ("body", "headers", "method", "query", "path")

    def __init__(self, context, body):
        self.body = body
        self.headers = context.headers
        self.method = context.method
        self.query = dict(parse_qsl(context.query, keep_blank_values=True))
        self.path = context.path


class Connection:
    """One connection to the node, on which requests come one by one."""

    def __init__(self, stream):
        self.stream = stream
        self.buffer = bytearray()

    def fill(self):
        """Reads more; False at the end."""
        piece = self.stream.recv(65536)
        self.buffer += piece
        return bool(piece)

    def take(self, count):
        """The next `count` bytes."""
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def take_until(self, mark):
        """The bytes before `mark`, which is taken too; None at a clean end."""
        at = self.buffer.find(mark)
        while at < 0:
            if len(self.buffer) > HEAD_BYTES:
                raise EOFError
            searched = max(0, len(self.buffer) - len(mark) + 1)
            if not self.fill():
                return None
            at = self.buffer.find(mark, searched)
        taken = bytes(self.buffer[:at])
        del self.buffer[: at + len(mark)]
        return taken

    def request(self):
        """The next request as (method, target, headers, body); None at the end."""
        head = self.take_until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = Headers()
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            known = dict.get(headers, name)
            headers[name] = value if known is None else f"{known}, {value}"
        if headers.get("expect", "").lower() == "100-continue":
            self.stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self.chunks()
        else:
            body = self.take(int(headers.get("content-length") or 0))
        return method, target, headers, body

    def chunks(self):
        body = bytearray()
        while True:
            line = self.take_until(b"\r\n")
            if line is None:
                raise EOFError
            size = int(line.split(b";", 1)[0], 16)
            if size == 0:
                break
            body += self.take(size)
            self.take(2)
        while self.take_until(b"\r\n"):
            pass
        return bytes(body)

    def answer(self, method, status, headers, body):
        """Sends an answer: bytes at once, an iterator in chunks."""
        whole = isinstance(body, (bytes, bytearray))
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, '')}"]
        for name, value in headers.items():
            text = f"{name}: {value}"
            if "\r" in text or "\n" in text:
                raise ValueError(f"header {name!r} holds a line break")
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                lines.append(text)
        bodiless = method == "HEAD" or status in (204, 304)
        if whole:
            if status not in (204, 304):
                lines.append(f"content-length: {len(body)}")
        elif not bodiless:
            lines.append("transfer-encoding: chunked")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        if bodiless:
            self.stream.sendall(head)
        elif whole:
            self.stream.sendall(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self.stream.sendall(body)
        else:
            self.stream.sendall(head)
            for piece in body:
                piece = piece.encode() if isinstance(piece, str) else bytes(piece)
                if piece:
                    self.stream.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.stream.sendall(b"0\r\n\r\n")


def parameters(query, body):
    """The JSON object of a body over the parameters of a query."""
    given = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
    if body.strip():
        try:
            value = json.loads(body)
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise BadRequest("the body is JSON, but no object: send {\"name\": value}")
        given.update(value)
    return given


def rendered(value):
    """A value as (content type, body)."""
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    if isinstance(value, (bytes, bytearray)):
        return "application/octet-stream", bytes(value)
    if hasattr(value, "__next__"):
        return "text/plain; charset=utf-8", value
    return "application/json", json.dumps(value).encode()


def by_parameters(handler, context, body):
    """Calls `handler(params, context)`."""
    value, status, headers = handler(parameters(context.query, body), context), 200, {}
    if isinstance(value, tuple) and len(value) in (2, 3):
        value, status, *more = value
        headers = dict(more[0]) if more else {}
    kind, body = rendered(value)
    return status, {"content-type": kind, **lower(headers)}, body


def by_event(handler, context, body):
    """Calls `handle(event, context)`."""
    value, status, headers = handler(Event(context, body), context), 200, {}
    if isinstance(value, dict) and "statusCode" in value:
        status, headers = value["statusCode"], value.get("headers") or {}
        value = value.get("body", "")
    kind, body = rendered(value)
    return status, {"content-type": kind, **lower(headers)}, body


def lower(headers):
    return {str(name).lower(): value for name, value in headers.items()}


def serve(connection, call):
    """Answers requests until the connection ends."""
    while True:
        try:
            request = connection.request()
        except EOFError:
            return
        if request is None:
            return
        method, target, headers, body = request
        path, _, query = target.partition("?")
        context = Context(method, unquote(path), query, headers)
        try:
            status, fields, body = call(context, body)
            status = int(status)
        except BadRequest as error:
            status, fields, body = 400, {"content-type": "text/plain"}, f"{error}\n".encode()
        except Exception as error:
            traceback.print_exc()
            fields = {"content-type": "text/plain; charset=utf-8", "x-weir-function-error": "1"}
            status, body = 502, f"{type(error).__name__}: {error}\n".encode()
        connection.answer(method, status, fields, body)


def worker(stream, call):
    """A thread: one connection. A broken one is the node's to notice."""
    try:
        serve(Connection(stream), call)
    except OSError:
        pass
    except Exception:
        # An answer that broke in the middle must not look whole.
        traceback.print_exc()
    finally:
        stream.close()


def load(name):
    """The handler that WEIR_HANDLER names, as a function of context and body."""
    module, _, function = name.rpartition(".")
    if not module:
        raise SystemExit(f"WEIR_HANDLER is {name!r}: write MODULE.FUNCTION")
    handler = getattr(importlib.import_module(module), function)
    kind = by_event if function == "handle" else by_parameters
    return lambda context, body: kind(handler, context, body)


def main():
    sys.path.insert(0, os.environ.get("WEIR_SOURCE", "/function"))
    sys.dont_write_bytecode = True
    call = load(os.environ.get("WEIR_HANDLER", ""))
    streams = []
    for _ in range(int(os.environ.get("WEIR_CONCURRENCY") or 1)):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(os.environ["WEIR_SOCKET"])
        streams.append(stream)
    threads = [
        threading.Thread(target=worker, args=(stream, call), daemon=True) for stream in streams[1:]
    ]
    for thread in threads:
        thread.start()
    worker(streams[0], call)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
