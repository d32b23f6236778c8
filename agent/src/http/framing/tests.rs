use super::*;

/// What is found in bytes that come in these pieces, counted from the first; who
/// asks for another protocol is answered so.
fn follow(pieces: &[&[u8]], granted: bool) -> (Found, Framing) {
    let (mut framing, mut before) = (Framing::default(), 0);
    for piece in pieces {
        let mut at = 0;
        loop {
            match framing.follow(&piece[at..]) {
                Found::Fine => break,
                Found::Bare(bare) => return (Found::Bare(before + at + bare), framing),
                Found::Asked(end) => {
                    at += end;
                    framing.answered(granted);
                }
            }
        }
        before += piece.len();
    }
    (Found::Fine, framing)
}

/// Follows bytes whole, byte by byte, and cut once at each place: all alike.
fn follow_any(bytes: &[u8], granted: bool) -> (Found, Framing) {
    let whole = follow(&[bytes], granted);
    let each: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(follow(&each, granted), whole, "byte by byte");
    for cut in 0..=bytes.len() {
        let (one, other) = bytes.split_at(cut);
        assert_eq!(follow(&[one, other], granted), whole, "cut at {cut}");
    }
    whole
}

/// Whether what comes next, after these bytes, is a head again.
fn passes(name: &str, bytes: &[u8]) {
    let (found, framing) = follow_any(bytes, false);
    assert_eq!(found, Found::Fine, "{name}");
    assert_eq!(framing.part, Part::Before, "{name}");
}

/// The bytes are refused at the line feed that is marked with `!` before it.
fn refuses(name: &str, marked: &str) {
    let at = marked.find('!').expect("a mark");
    let (found, _) = follow_any(marked.replace('!', "").as_bytes(), false);
    assert_eq!(found, Found::Bare(at), "{name}");
}

const POST: &str = "POST / HTTP/1.1\r\nHost: x\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn requests_are_followed_to_their_ends() {
    let long = format!("{POST}content-length: 5\r\n\r\n");
    for (name, request) in [
        ("no body", GET.to_owned()),
        ("several", GET.repeat(3)),
        ("empty lines before it", format!("\r\n\r\n{GET}\r\n{GET}")),
        (
            "empty lines of line feeds alone",
            format!("\n{GET}\n\n{GET}"),
        ),
        ("a body", format!("{long}a\nb\n\n")),
        ("a body of line feeds", format!("{long}\n\n\n\n\n{GET}")),
        (
            "a head in a body",
            format!("{POST}content-length: 7\r\n\r\nGET /\n\n{GET}"),
        ),
        (
            "a length of nothing",
            format!("{POST}Content-Length: 0\r\n\r\n{GET}"),
        ),
        (
            "a length with blanks",
            format!("{POST}CONTENT-LENGTH: \t 005 \r\n\r\n\n\n\n\n\n{GET}"),
        ),
        (
            "two lengths alike",
            format!("{POST}content-length: 2\r\ncontent-length: 2\r\n\r\n\n\n{GET}"),
        ),
        (
            "names that begin alike",
            format!("{POST}content-lengths: 9\r\ncontent: 9\r\nc: 9\r\n\r\n{GET}"),
        ),
        (
            "another upgrade",
            format!("{POST}upgrade-insecure-requests: 1\r\n\r\n{GET}"),
        ),
        (
            "other codings",
            format!("{POST}te: chunked\r\ntransfer: chunked\r\n\r\n{GET}"),
        ),
        ("no chunk", format!("{CHUNKED}0\r\n\r\n{GET}")),
        (
            "chunks of line feeds",
            format!("{CHUNKED}2\r\n\n\n\r\n1\r\n\n\r\n0\r\n\r\n{GET}"),
        ),
        (
            "a large chunk",
            format!("{CHUNKED}1a\r\n{}\r\n000\r\n\r\n{GET}", "\n".repeat(26)),
        ),
        (
            "letters of both cases",
            format!("{CHUNKED}aA\r\n{}\r\n0\r\n\r\n{GET}", "\n".repeat(170)),
        ),
        (
            "extensions",
            format!("{CHUNKED}1;a=b;c=\"5\"\r\n\n\r\n1 ;x\r\n\n\r\n0;y\r\n\r\n{GET}"),
        ),
        (
            "trailers",
            format!("{CHUNKED}1\r\n\n\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n{GET}"),
        ),
        (
            "a length among trailers",
            format!("{CHUNKED}0\r\ncontent-length: 9\r\n\r\n{GET}"),
        ),
        (
            "chunks and a length",
            "POST / HTTP/1.1\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
    ] {
        passes(name, request.as_bytes());
    }
}

#[test]
fn a_bare_line_feed_is_found_where_lines_are() {
    let long = format!("{POST}content-length: 5\r\n\r\na\nb\n\n");
    let chunks = format!("{CHUNKED}2;x\r\n\n\n\r\n");
    for (name, marked) in [
        (
            "a request line",
            "GET / HTTP/1.1!\nHost: x\r\n\r\n".to_owned(),
        ),
        (
            "a header",
            "GET / HTTP/1.1\r\nHost: x!\na: b\r\n\r\n".to_owned(),
        ),
        (
            "the end of a head",
            "GET / HTTP/1.1\r\nHost: x\r\n!\n".to_owned(),
        ),
        ("a name", "GET / HTTP/1.1\r\ncontent!\n\r\n".to_owned()),
        ("a length", format!("{POST}content-length: 5!\n\r\nabcde")),
        (
            "a coding",
            format!("{POST}transfer-encoding: chunked!\n\r\n"),
        ),
        (
            "after an empty line",
            "\r\n\r\nGET / HTTP/1.1!\n".to_owned(),
        ),
        (
            "behind a head without a body",
            format!("{GET}GET / HTTP/1.1!\n"),
        ),
        ("behind a body", format!("{long}GET / HTTP/1.1!\n")),
        (
            "behind chunks",
            format!("{chunks}0\r\n\r\nGET / HTTP/1.1!\n"),
        ),
        (
            "behind trailers",
            format!("{chunks}0\r\na: b\r\n\r\nGET / HTTP/1.1\r\na: b!\n"),
        ),
        ("the size of a chunk", format!("{chunks}1!\n")),
        ("an extension", format!("{chunks}1;a!\n")),
        ("the end of a chunk", format!("{CHUNKED}1\r\nx!\n")),
        ("the last size", format!("{chunks}0!\n\r\n")),
        ("a trailer", format!("{chunks}0\r\na: b!\n\r\n")),
        ("the end of trailers", format!("{chunks}0\r\na: b\r\n!\n")),
        ("the end of chunks", format!("{chunks}0\r\n!\n")),
        (
            "a carriage return before more",
            "GET / HTTP/1.1\r\na: \rb!\n".to_owned(),
        ),
        (
            "what begins as HTTP/2 does",
            "PRI * HTTP/2.0\r\n\r\nSM!\n\r\n\r\n".to_owned(),
        ),
        (
            "HTTP/2 on a connection of HTTP/1",
            format!("{GET}PRI * HTTP/2.0!\n"),
        ),
    ] {
        refuses(name, &marked);
    }
}

#[test]
fn nothing_is_a_head_behind_the_preface_of_http2() {
    let bytes = [PREFACE, b"\0\n\nGET / HTTP/1.1\n\n"].concat();
    let (found, framing) = follow_any(&bytes, false);
    assert_eq!((found, framing.is_opaque()), (Found::Fine, true));
}

#[test]
fn what_follows_a_wish_for_another_protocol_is_a_head_if_it_is_denied() {
    let upgrade = format!("{POST}upgrade: websocket\r\ncontent-length: 2\r\n\r\n\n\n");
    for (name, asks) in [
        ("an upgrade", upgrade.as_str()),
        ("a tunnel", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let more = format!("{asks}GET / HTTP/1.1\n\n");
        let (found, framing) = follow_any(more.as_bytes(), true);
        assert_eq!((found, framing.is_opaque()), (Found::Fine, true), "{name}");
        let (found, _) = follow_any(more.as_bytes(), false);
        let at = asks.len() + "GET / HTTP/1.1".len();
        assert_eq!(found, Found::Bare(at), "{name}");
        let mut framing = Framing::default();
        let found = framing.follow(more.as_bytes());
        assert_eq!(found, Found::Asked(asks.len()), "{name}");
    }
    passes(
        "a method that begins alike",
        b"CONNECTS a:1 HTTP/1.1\r\n\r\n",
    );
}

#[test]
fn what_is_no_request_is_left_to_the_parser() {
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\rx\n\n",
        b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n\n\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ] {
        assert_eq!(follow_any(bytes, false).0, Found::Fine);
    }
}

#[test]
fn a_head_that_came_in_part_is_known_wherever_it_begins() {
    let before = [
        ("first", ""),
        ("behind an empty line", "\r\n"),
        ("behind a head", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        (
            "behind a body",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nbye",
        ),
        (
            "behind chunks and a trailer",
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbye\r\n0\r\na: \
             b\r\n\r\n",
        ),
    ];
    for (name, before) in before {
        let mut framing = Framing::default();
        framing.follow(before.as_bytes());
        assert!(!framing.is_in_head(), "{name}");
        for part in [
            "GE",
            "T / HTTP/1.1\r",
            "\nho",
            "st: x\r\n",
            "content-length: 1",
            "\r\n\r",
        ] {
            framing.follow(part.as_bytes());
            assert!(framing.is_in_head(), "{name}: {part:?}");
        }
        for part in ["\n", "1"] {
            framing.follow(part.as_bytes());
            assert!(!framing.is_in_head(), "{name}: {part:?}");
        }
    }
    let mut framing = Framing::default();
    framing.follow(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b");
    assert!(!framing.is_in_head(), "trailers are of the body");
}
