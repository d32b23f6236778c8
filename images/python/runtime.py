"""Runs a Python function for a Weir node. Standard library only.

The runtime imports the handler, then dials the node's Unix socket as many
times as it may run calls at once; that it dials says that it is ready. On each
connection it then answers HTTP/1.1 requests, one after the other, in a thread
of its own. When the node closes a connection its thread ends, and with the
last thread the process.

Environment: WEIR_SOCKET, WEIR_HANDLER (MODULE.FUNCTION), WEIR_SOURCE (folder
of the code), WEIR_CONCURRENCY, WEIR_FUNCTION, WEIR_MEMORY_BYTES.

Three kinds of handlers, told apart by the function's name and how many
arguments it takes:

* `handle(event, context)`, as in OpenFaaS templates: `event` has `body`
  (bytes), `headers`, `method`, `query`, `path`; the answer is a dict with
  `statusCode`, `body`, `headers`, or a plain value;
* `handle(req)`, as in OpenFaaS' classic template: `req` is the body as text;
  the answer is a text, or any of the below; None is an empty one;
* any other name, `handler(params, context)` or `handler(params)`: `params` is
  the JSON object of the body over the parameters of the query; a dict, list,
  number, bool or None becomes JSON, `str` and `bytes` go out as they are, an
  iterator of those is streamed, and `(value, status)` or
  `(value, status, headers)` say more.

Each may be `async def`, or an asynchronous generator: all of a process run on
one event loop. Headers are a dict, or a list of pairs; a list as value is one
header line for each of its items.
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
        for name, value in headers:
            if name not in ("content-length", "transfer-encoding", "connection"):
                lines.append(f"{name}: {value}")
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
    if hasattr(value, "__anext__"):
        return "text/plain; charset=utf-8", LOOP.pieces(value)
    if hasattr(value, "__next__"):
        return "text/plain; charset=utf-8", value
    try:
        return "application/json", json.dumps(value, allow_nan=False).encode()
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        raise ValueError(
            "the answer holds NaN or an infinity, which JSON does not have: return None or a text"
        ) from None


class Loop:
    """The event loop of all asynchronous handlers, in a thread of its own."""

    def __init__(self):
        self.lock = threading.Lock()
        self.loop = None

    def wait(self, awaitable):
        """What `awaitable` comes to."""
        # Imported when it is needed: it takes as long as all of a start.
        import asyncio

        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                threading.Thread(target=self.loop.run_forever, daemon=True).start()

        async def waited():
            return await awaitable

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result()

    def pieces(self, generator):
        """The items of an asynchronous generator, as they come."""
        while True:
            try:
                yield self.wait(generator.__anext__())
            except StopAsyncIteration:
                return


LOOP = Loop()


def called(handler, *arguments):
    """What a handler answers, be it asynchronous or not."""
    value = handler(*arguments)
    return LOOP.wait(value) if hasattr(value, "__await__") else value


def arguments_of(handler):
    """How many arguments a handler takes, 2 at most."""
    code = getattr(handler, "__code__", None)
    # A decorated function says what it takes only to who looks behind it.
    if code is not None and not hasattr(handler, "__wrapped__") and not hasattr(handler, "__self__"):
        return 2 if code.co_flags & 4 else min(2, code.co_argcount)
    import inspect

    taken = 0
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind == parameter.VAR_POSITIONAL:
            return 2
        taken += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return min(2, taken)


def answer_of(value, status=200, headers=None):
    """A handler's answer as (status, header lines, body)."""
    if isinstance(value, tuple) and len(value) in (2, 3):
        value, status, *more = value
        headers = more[0] if more else None
    kind, body = rendered(value)
    lines = header_lines(headers or {})
    if not any(name == "content-type" for name, _ in lines):
        lines.append(("content-type", kind))
    return status, lines, body


def by_parameters(handler, context, body):
    """Calls `handler(params, context)`, or with fewer arguments."""
    given = (parameters(context.query, body), context)
    return answer_of(called(handler, *given[: arguments_of(handler)]))


def by_event(handler, context, body):
    """Calls `handle(event, context)`."""
    value = called(handler, Event(context, body), context)
    if isinstance(value, dict) and "statusCode" in value:
        return answer_of(value.get("body", ""), value["statusCode"], value.get("headers"))
    return answer_of(value)


def by_text(handler, context, body):
    """Calls `handle(req)`."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8 text, and handle(req) takes text") from None
    value = called(handler, text)
    return answer_of("" if value is None else value)


def header_lines(headers):
    """Headers as pairs of name and value, one for each line."""
    pairs = headers.items() if hasattr(headers, "items") else headers
    lines = []
    for name, value in pairs:
        values = value if isinstance(value, (list, tuple)) else (value,)
        for value in values:
            if any(mark in f"{name}{value}" for mark in "\r\n"):
                raise ValueError(f"header {name!r} holds a line break")
            lines.append((str(name).lower(), value))
    return lines


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
            status, fields, body = 400, [("content-type", "text/plain")], f"{error}\n".encode()
        except Exception as error:
            traceback.print_exc()
            fields = [("content-type", "text/plain; charset=utf-8"), ("x-weir-function-error", "1")]
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
    if function != "handle":
        kind = by_parameters
    else:
        kind = by_text if arguments_of(handler) == 1 else by_event
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
