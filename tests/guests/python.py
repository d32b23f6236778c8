"""A `wasi:http` component in Python: says what it was asked and echoes the body."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


def read_all(request: IncomingRequest) -> bytes:
    pieces = []
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                pieces.append(stream.blocking_read(65536))
            except Err as end:
                if isinstance(end.value, StreamError_Closed):
                    return b"".join(pieces)
                raise


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query() or "/"
        content = f"python saw {path}: ".encode() + read_all(request)
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for start in range(0, len(content), 4096):
                stream.blocking_write_and_flush(content[start : start + 4096])
        OutgoingBody.finish(body, None)
