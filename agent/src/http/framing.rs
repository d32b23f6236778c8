//! Where heads are among the bytes of an HTTP/1.1 connection, and whether their
//! lines end as they should (RFC 9112): a proxy before this node may read one
//! header where this node reads two, when a line ends with a bare line feed.
//!
//! What is no request is for the parser to refuse, which reads the same bytes:
//! here it is followed no further. Bodies are counted, not read.

/// How an HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A method whose connection may become another's.
const CONNECT: &[u8] = b"CONNECT ";

/// What was found in bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing wrong.
    Fine,
    /// A bare line feed, at this byte of them.
    Bare(usize),
    /// The end of a request that asks for another protocol, before this byte of
    /// them: what follows is a head or not, as the answer is.
    Asked(usize),
}

/// A header that says what follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Encoding,
    Upgrade,
}

impl Field {
    const fn name(self) -> &'static [u8] {
        match self {
            Field::Length => b"content-length:",
            Field::Encoding => b"transfer-encoding:",
            Field::Upgrade => b"upgrade:",
        }
    }
}

/// What the next byte is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The start of the connection: so many bytes of HTTP/2's preface came.
    Preface(usize),
    /// What is before a request line: empty lines, which mean nothing however
    /// they end.
    Before,
    /// The request line, of which so many bytes of [`CONNECT`] came.
    Method(usize),
    /// The start of a line of a head or of trailers.
    Line,
    /// The name of a header, of which so much came.
    Name(Field, usize),
    /// The value of Content-Length.
    Length,
    /// The rest of a line of a head or of trailers.
    Rest,
    /// The line feed of an empty line, which ends them.
    Empty,
    /// So many bytes of a body.
    Body(u64),
    /// The size of a chunk.
    Size,
    /// The rest of the line of that size.
    Extension,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a line behind a chunk.
    ChunkEnd,
    /// What is a head or not, as the answer to the request before is.
    Asked,
    /// No head, and none will come.
    Opaque,
}

/// How far the bytes of one connection were followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing {
    part: Part,
    /// Whether the last byte was a carriage return.
    returned: bool,
    /// What the head says so far of what follows it.
    length: u64,
    chunked: bool,
    /// Whether it asks for another protocol.
    upgrade: bool,
    /// Whether lines are of trailers.
    trailers: bool,
    /// The size of a chunk, as far as it came.
    size: u64,
}

impl Default for Framing {
    fn default() -> Self {
        Framing {
            part: Part::Preface(0),
            returned: false,
            length: 0,
            chunked: false,
            upgrade: false,
            trailers: false,
            size: 0,
        }
    }
}

impl Framing {
    /// Whether no head will come any more, so that nothing needs to be followed.
    pub fn is_opaque(&self) -> bool {
        self.part == Part::Opaque
    }

    /// Whether the bytes so far end within a head.
    pub fn is_in_head(&self) -> bool {
        let is_line = matches!(
            self.part,
            Part::Method(_) | Part::Line | Part::Name(..) | Part::Length | Part::Rest | Part::Empty
        );
        is_line && !self.trailers
    }

    /// Follows the bytes that come next, up to what is found.
    pub fn follow(&mut self, bytes: &[u8]) -> Found {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.part == Part::Asked {
                return Found::Asked(at);
            }
            match self.step(rest) {
                Ok(taken) => at += taken,
                Err(bare) => return Found::Bare(at + bare),
            }
        }
        Found::Fine
    }

    /// Says whether the request that asked for another protocol got it.
    pub fn answered(&mut self, granted: bool) {
        if self.part == Part::Asked {
            self.begin();
            if granted {
                self.part = Part::Opaque;
            }
        }
    }

    /// Follows what is of one part at the start of `rest`, which is not empty:
    /// how many bytes that is, or which of them is a bare line feed.
    fn step(&mut self, rest: &[u8]) -> Result<usize, usize> {
        let first = rest[0];
        Ok(match self.part {
            Part::Preface(came) => self.preface(rest, came),
            Part::Before => self.before(rest),
            Part::Method(came) => self.method(first, came),
            Part::Line => self.line(first)?,
            Part::Name(field, came) => self.name(first, field, came),
            Part::Length => self.length(first),
            Part::Rest => self.end_of_line(rest, Part::Line)?,
            Part::Empty => self.empty(first),
            Part::Body(left) => match self.skip(rest, left) {
                (taken, 0) => {
                    self.end();
                    taken
                }
                (taken, left) => self.go_on(Part::Body(left), taken),
            },
            Part::Size => self.size(first),
            Part::Extension => match self.size {
                0 => {
                    self.trailers = true;
                    self.end_of_line(rest, Part::Line)?
                }
                size => self.end_of_line(rest, Part::Chunk(size))?,
            },
            Part::Chunk(left) => match self.skip(rest, left) {
                (taken, 0) => self.go_on(Part::ChunkEnd, taken),
                (taken, left) => self.go_on(Part::Chunk(left), taken),
            },
            Part::ChunkEnd => {
                self.size = 0;
                self.end_of_line(rest, Part::Size)?
            }
            Part::Asked | Part::Opaque => rest.len(),
        })
    }

    /// Goes on with `part` behind so many bytes.
    fn go_on(&mut self, part: Part, taken: usize) -> usize {
        self.part = part;
        taken
    }

    fn preface(&mut self, rest: &[u8], came: usize) -> usize {
        let expected = &PREFACE[came..];
        let same = rest.iter().zip(expected).take_while(|(a, b)| a == b);
        let same = same.count();
        if same == expected.len() {
            return self.go_on(Part::Opaque, rest.len());
        }
        if same == rest.len() {
            return self.go_on(Part::Preface(came + same), same);
        }
        // It is HTTP/1, and what came before is of it. Its lines end well.
        self.part = Part::Before;
        let before = self.follow(&PREFACE[..came + same]);
        debug_assert_eq!(before, Found::Fine);
        same
    }

    fn before(&mut self, rest: &[u8]) -> usize {
        let empty = rest
            .iter()
            .take_while(|&&byte| matches!(byte, b'\r' | b'\n'));
        match empty.count() {
            0 => {
                self.begin();
                self.go_on(Part::Method(0), 0)
            }
            empty => empty,
        }
    }

    fn method(&mut self, first: u8, came: usize) -> usize {
        match CONNECT.get(came) {
            Some(&next) if next == first => self.go_on(Part::Method(came + 1), 1),
            next => {
                self.upgrade = next.is_none();
                self.go_on(Part::Rest, 0)
            }
        }
    }

    fn line(&mut self, first: u8) -> Result<usize, usize> {
        let part = match first {
            b'\n' => return Err(0),
            b'\r' => return Ok(self.go_on(Part::Empty, 1)),
            b'c' | b'C' => Part::Name(Field::Length, 0),
            b't' | b'T' => Part::Name(Field::Encoding, 0),
            b'u' | b'U' => Part::Name(Field::Upgrade, 0),
            _ => Part::Rest,
        };
        Ok(self.go_on(part, 0))
    }

    fn name(&mut self, first: u8, field: Field, came: usize) -> usize {
        let name = field.name();
        if !name[came].eq_ignore_ascii_case(&first) {
            return self.go_on(Part::Rest, 0);
        }
        if came + 1 < name.len() {
            return self.go_on(Part::Name(field, came + 1), 1);
        }
        match field {
            Field::Length => {
                self.length = 0;
                return self.go_on(Part::Length, 1);
            }
            Field::Encoding => self.chunked = true,
            Field::Upgrade => self.upgrade = true,
        }
        self.go_on(Part::Rest, 1)
    }

    fn length(&mut self, first: u8) -> usize {
        match first {
            b'0'..=b'9' => self.length = more(self.length, 10, first - b'0'),
            b' ' | b'\t' => {}
            _ => return self.go_on(Part::Rest, 0),
        }
        1
    }

    fn size(&mut self, first: u8) -> usize {
        let digit = match first {
            b'0'..=b'9' => first - b'0',
            b'a'..=b'f' => first - b'a' + 10,
            b'A'..=b'F' => first - b'A' + 10,
            _ => return self.go_on(Part::Extension, 0),
        };
        self.size = more(self.size, 16, digit);
        1
    }

    /// Follows a line to its end, after which `next` comes.
    fn end_of_line(&mut self, rest: &[u8], next: Part) -> Result<usize, usize> {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            self.returned = rest.last() == Some(&b'\r');
            return Ok(rest.len());
        };
        let returned = match end.checked_sub(1) {
            Some(before) => rest[before] == b'\r',
            None => self.returned,
        };
        self.returned = false;
        match returned {
            true => Ok(self.go_on(next, end + 1)),
            false => Err(end),
        }
    }

    /// The end of a head, or of trailers.
    fn empty(&mut self, first: u8) -> usize {
        if first != b'\n' {
            return self.go_on(Part::Opaque, 1);
        }
        match (self.trailers, self.chunked, self.length) {
            (false, true, _) => {
                self.size = 0;
                self.part = Part::Size;
            }
            (false, false, 1..) => self.part = Part::Body(self.length),
            (true, _, _) | (false, false, 0) => self.end(),
        }
        1
    }

    /// How many bytes of a body are there of those `left`, and how many are not.
    fn skip(&self, rest: &[u8], left: u64) -> (usize, u64) {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        (taken, left - taken as u64)
    }

    /// The end of a request.
    fn end(&mut self) {
        self.part = match self.upgrade {
            true => Part::Asked,
            false => Part::Before,
        };
    }

    /// Nothing is known of the next request.
    fn begin(&mut self) {
        *self = Framing {
            part: Part::Before,
            ..Framing::default()
        };
    }
}

/// A number with one more digit. Where it is too large the parser refuses it.
fn more(number: u64, base: u64, digit: u8) -> u64 {
    number.saturating_mul(base).saturating_add(u64::from(digit))
}

#[cfg(test)]
mod tests;
