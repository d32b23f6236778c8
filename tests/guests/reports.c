// A `wasi:http` component: answers with all that it sees of a request, its body
// and its trailers, with as many headers more as the query says, and a trailer.
#include "proxy.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef exports_wasi_http_incoming_handler_own_incoming_request_t request_t;
typedef exports_wasi_http_incoming_handler_own_response_outparam_t outparam_t;

static char said[64 << 10];
static size_t length;

static void say(const char *text, const uint8_t *bytes, size_t count) {
    length += snprintf(said + length, sizeof said - length, "%s%.*s", text, (int)count, (const char *)bytes);
}

static void send(wasi_io_streams_borrow_output_stream_t stream, uint8_t *bytes, size_t count) {
    // One call may carry at most 4096 bytes.
    while (count > 0) {
        size_t step = count < 4096 ? count : 4096;
        proxy_list_u8_t piece = {bytes, step};
        wasi_io_streams_stream_error_t error;
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(stream, &piece, &error)) return;
        bytes += step;
        count -= step;
    }
}

static void add(wasi_http_types_borrow_fields_t fields, char *name, char *value) {
    proxy_string_t key = {(uint8_t *)name, strlen(name)};
    wasi_http_types_field_value_t text = {(uint8_t *)value, strlen(value)};
    wasi_http_types_header_error_t error;
    wasi_http_types_method_fields_append(fields, &key, &text, &error);
}

static void say_all(wasi_http_types_borrow_fields_t fields) {
    wasi_http_types_list_tuple2_field_name_field_value_t entries;
    wasi_http_types_method_fields_entries(fields, &entries);
    for (size_t at = 0; at < entries.len; at++) {
        say("\n", entries.ptr[at].f0.ptr, entries.ptr[at].f0.len);
        say(": ", entries.ptr[at].f1.ptr, entries.ptr[at].f1.len);
    }
}

static void say_trailers(wasi_http_types_own_incoming_body_t body) {
    wasi_http_types_own_future_trailers_t future = wasi_http_types_static_incoming_body_finish(body);
    wasi_http_types_borrow_future_trailers_t waiting = wasi_http_types_borrow_future_trailers(future);
    wasi_http_types_own_pollable_t ready = wasi_http_types_method_future_trailers_subscribe(waiting);
    wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(ready));
    wasi_io_poll_pollable_drop_own(ready);
    wasi_http_types_result_result_option_own_trailers_error_code_void_t got;
    length = 0;
    if (wasi_http_types_method_future_trailers_get(waiting, &got) && !got.is_err && !got.val.ok.is_err &&
        got.val.ok.val.ok.is_some) {
        say_all(wasi_http_types_borrow_fields(got.val.ok.val.ok.val));
        wasi_http_types_fields_drop_own(got.val.ok.val.ok.val);
    }
    wasi_http_types_future_trailers_drop_own(future);
}

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
    wasi_http_types_borrow_incoming_request_t borrowed = wasi_http_types_borrow_incoming_request(request);
    wasi_http_types_method_t method;
    wasi_http_types_method_incoming_request_method(borrowed, &method);
    char number[32];
    say("method ", (uint8_t *)number, snprintf(number, sizeof number, "%d", method.tag));
    proxy_string_t path = {0}, authority = {0};
    wasi_http_types_method_incoming_request_path_with_query(borrowed, &path);
    say("\npath ", path.ptr, path.len);
    wasi_http_types_method_incoming_request_authority(borrowed, &authority);
    say("\nauthority ", authority.ptr, authority.len);
    wasi_http_types_scheme_t scheme;
    wasi_http_types_method_incoming_request_scheme(borrowed, &scheme);
    say("\nscheme ", (uint8_t *)number, snprintf(number, sizeof number, "%d", scheme.tag));
    wasi_http_types_own_headers_t headers = wasi_http_types_method_incoming_request_headers(borrowed);
    say_all(wasi_http_types_borrow_fields(headers));
    say("\n\n", NULL, 0);
    wasi_http_types_fields_drop_own(headers);

    wasi_http_types_own_fields_t fields = wasi_http_types_constructor_fields();
    wasi_http_types_borrow_fields_t mine = wasi_http_types_borrow_fields(fields);
    add(mine, "x-guest", "yes");
    add(mine, "set-cookie", "first=1");
    add(mine, "set-cookie", "second=2");
    add(mine, "x-weir-node", "forged");
    add(mine, "x-call-id", "forged");
    char *query = memchr(path.ptr, '?', path.len);
    for (int more = query ? atoi(query + 1) : 0; more > 0; more--) {
        snprintf(number, sizeof number, "x-more-%d", more);
        add(mine, number, "yes");
    }
    wasi_http_types_own_outgoing_response_t response = wasi_http_types_constructor_outgoing_response(fields);
    wasi_http_types_borrow_outgoing_response_t answer = wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_method_outgoing_response_set_status_code(answer, 203);
    wasi_http_types_own_outgoing_body_t body;
    wasi_http_types_method_outgoing_response_body(answer, &body);
    wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false, .val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &result);

    wasi_io_streams_own_output_stream_t output;
    wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &output);
    wasi_io_streams_borrow_output_stream_t sink = wasi_io_streams_borrow_output_stream(output);
    send(sink, (uint8_t *)said, length);
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
        say_trailers(incoming);
        send(sink, (uint8_t *)said, length);
    }
    wasi_io_streams_output_stream_drop_own(output);
    wasi_http_types_error_code_t trouble;
    wasi_http_types_own_trailers_t trailers = wasi_http_types_constructor_fields();
    add(wasi_http_types_borrow_fields(trailers), "x-sum", "answered");
    wasi_http_types_static_outgoing_body_finish(body, &trailers, &trouble);
    wasi_http_types_incoming_request_drop_own(request);
}
