"""A `wasi:http` component that sends a request where its caller says: the body
is `AUTHORITY PATH`. Answers with what came back, or 599 and why nothing did."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import outgoing_handler
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
)


def read_all(source) -> bytes:
    pieces = []
    with source.consume() as body, body.stream() as stream:
        while True:
            try:
                pieces.append(stream.blocking_read(65536))
            except Err as end:
                if isinstance(end.value, StreamError_Closed):
                    return b"".join(pieces)
                raise


def fetch(authority: str, path: str) -> tuple[int, bytes]:
    request = OutgoingRequest(Fields.from_list([]))
    request.set_scheme(Scheme_Http())
    request.set_authority(authority)
    request.set_path_with_query(path)
    try:
        future = outgoing_handler.handle(request, None)
    except Err as refused:
        return 599, type(refused.value).__name__.encode()
    with future.subscribe() as ready:
        ready.block()
    outcome = future.get().value
    if isinstance(outcome, Err):
        return 599, type(outcome.value).__name__.encode()
    with outcome.value as response:
        return response.status(), read_all(response)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        authority, path = read_all(request).decode().split()
        status, content = fetch(authority, path)
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            stream.blocking_write_and_flush(content[:4096])
        OutgoingBody.finish(body, None)
