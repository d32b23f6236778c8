// A `wasi:http` component: answers with the status that the query names, the
// method, path and one request header, then echoes the request body as it comes.
#include "proxy.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef exports_wasi_http_incoming_handler_own_incoming_request_t request_t;
typedef exports_wasi_http_incoming_handler_own_response_outparam_t outparam_t;

static void send(wasi_io_streams_borrow_output_stream_t stream, uint8_t *bytes, size_t length) {
    // One call may carry at most 4096 bytes.
    while (length > 0) {
        size_t step = length < 4096 ? length : 4096;
        proxy_list_u8_t piece = {bytes, step};
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(stream, &piece, &error)) return;
        bytes += step;
        length -= step;
    }
}

static const char *name_of(wasi_http_types_method_t *method) {
    switch (method->tag) {
    case WASI_HTTP_TYPES_METHOD_GET: return "GET";
    case WASI_HTTP_TYPES_METHOD_HEAD: return "HEAD";
    case WASI_HTTP_TYPES_METHOD_POST: return "POST";
    case WASI_HTTP_TYPES_METHOD_PUT: return "PUT";
    case WASI_HTTP_TYPES_METHOD_DELETE: return "DELETE";
    case WASI_HTTP_TYPES_METHOD_OPTIONS: return "OPTIONS";
    case WASI_HTTP_TYPES_METHOD_PATCH: return "PATCH";
    default: return "OTHER";
    }
}

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
    wasi_http_types_borrow_incoming_request_t borrowed = wasi_http_types_borrow_incoming_request(request);
    wasi_http_types_method_t method;
    wasi_http_types_method_incoming_request_method(borrowed, &method);
    proxy_string_t path = {0};
    if (!wasi_http_types_method_incoming_request_path_with_query(borrowed, &path)) proxy_string_set(&path, "/");

    char line[1024];
    int length = snprintf(line, sizeof line, "%s %.*s\n", name_of(&method), (int)path.len, (char *)path.ptr);
    char *query = memchr(path.ptr, '?', path.len);
    char digits[4] = {0};
    if (query && path.len - (query - (char *)path.ptr) > 3) memcpy(digits, query + 1, 3);
    int status = atoi(digits);

    wasi_http_types_own_fields_t fields = wasi_http_types_constructor_fields();
    wasi_http_types_own_outgoing_response_t response = wasi_http_types_constructor_outgoing_response(fields);
    wasi_http_types_borrow_outgoing_response_t answer = wasi_http_types_borrow_outgoing_response(response);
    if (status) wasi_http_types_method_outgoing_response_set_status_code(answer, status);
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_body(answer, &body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);

    wasi_io_streams_own_output_stream_t output;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &output);
    wasi_io_streams_borrow_output_stream_t sink = wasi_io_streams_borrow_output_stream(output);
    send(sink, (uint8_t *)line, length);

    wasi_http_types_own_incoming_body_t incoming;
    if (wasi_http_types_method_incoming_request_consume(borrowed, &incoming)) {
        wasi_io_streams_own_input_stream_t input;
        if (wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(incoming), &input)) {
            wasi_io_streams_borrow_input_stream_t source = wasi_io_streams_borrow_input_stream(input);
            proxy_list_u8_t piece;
            wasi_io_streams_stream_error_t error;
            while (wasi_io_streams_method_input_stream_blocking_read(source, 65536, &piece, &error)) {
                send(sink, piece.ptr, piece.len);
                proxy_list_u8_free(&piece);
            }
            wasi_io_streams_input_stream_drop_own(input);
        }
        wasi_http_types_incoming_body_drop_own(incoming);
    }
    wasi_io_streams_output_stream_drop_own(output);
    wasi_http_types_error_code_t trouble;
    wasi_http_types_static_outgoing_body_finish(body, NULL, &trouble);
    proxy_string_free(&path);
    wasi_http_types_incoming_request_drop_own(request);
}
