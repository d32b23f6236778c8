//! Parts of image archives that need not be sent, since the bytes of their
//! layers lie on this machine already.
//!
//! What lies where in an archive is hearsay, and so is what a file here holds:
//! each part that is made of such bytes is held against its digest like any
//! other.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use weir_node::id::Digest;
use weir_node::layers::{Found, Layer};

/// Bytes of a row: digest, place and length.
const ROW: usize = 32 + 8 + 8;

/// Rows that are read.
const ROWS: usize = 256;

/// Bytes of the longest table.
pub(super) const TABLE: u64 = (ROW * ROWS) as u64;

/// Layers that are looked for; smaller ones are sent sooner than found.
const LEAST: u64 = 64 << 10;

/// A table as it is sent.
pub fn encode(layers: &[Layer]) -> Vec<u8> {
    let rows = layers.iter().take(ROWS).flat_map(|layer| {
        let digest = layer.digest.as_bytes().iter().copied();
        let place = layer.at.to_be_bytes().into_iter();
        digest.chain(place).chain(layer.bytes.to_be_bytes())
    });
    rows.collect()
}

/// The layers that are worth looking for, of an archive of `length` bytes, in
/// the order of their places: rows that cannot be true are left out, and all
/// but one of those that overlap.
pub fn decode(table: &[u8], length: u64) -> Vec<Layer> {
    let (rows, _) = table.as_chunks::<ROW>();
    let layers = rows.iter().take(ROWS).filter_map(|row| {
        let (digest, place) = row.split_first_chunk::<32>()?;
        let (at, bytes) = place.split_first_chunk::<8>()?;
        let layer = Layer {
            digest: Digest::new(*digest),
            at: u64::from_be_bytes(*at),
            bytes: u64::from_be_bytes(*bytes.first_chunk()?),
        };
        let end = layer.at.checked_add(layer.bytes)?;
        (layer.bytes >= LEAST && end <= length).then_some(layer)
    });
    let mut layers: Vec<Layer> = layers.collect();
    layers.sort_by_key(|layer| layer.at);
    let mut reached = 0;
    layers.retain(|layer| {
        let is_free = layer.at >= reached;
        if is_free {
            reached = layer.at + layer.bytes;
        }
        is_free
    });
    layers
}

/// What this machine has of an archive.
#[derive(Clone, Default)]
pub(super) struct Own {
    /// In the order of their places.
    found: Arc<[Found]>,
}

impl Own {
    pub(super) fn new(mut found: Vec<Found>) -> Own {
        found.sort_unstable_by_key(|found| found.layer.at);
        Own {
            found: found.into(),
        }
    }

    /// The same, and more.
    pub(super) fn and(&self, found: Vec<Found>) -> Own {
        Own::new(self.found.iter().cloned().chain(found).collect())
    }

    /// Whether it has anything of these bytes of the archive.
    pub(super) fn touches(&self, span: &Range<u64>) -> bool {
        let mut found = self.found.iter();
        found.any(|found| !overlap(&found.layer, span).is_empty())
    }

    /// Those bytes of the archive as far as they are here, and the shortest run
    /// (from the first of them) outside which nothing is missing. Blocks.
    pub(super) fn fill(&self, span: &Range<u64>) -> (Vec<u8>, Range<usize>) {
        let length = (span.end - span.start) as usize;
        let mut bytes = vec![0; length];
        let mut missing = length..0;
        let mut lacks = |hole: Range<usize>| {
            if !hole.is_empty() {
                missing.start = missing.start.min(hole.start);
                missing.end = missing.end.max(hole.end);
            }
        };
        let mut reached = 0;
        for found in &*self.found {
            let part = overlap(&found.layer, span);
            if part.is_empty() {
                continue;
            }
            let from = found.from + (part.start - found.layer.at);
            let part = (part.start - span.start) as usize..(part.end - span.start) as usize;
            match found.file.read_exact_at(&mut bytes[part.clone()], from) {
                Ok(()) => lacks(reached..part.start),
                Err(_) => lacks(reached..part.end),
            }
            reached = reached.max(part.end);
        }
        lacks(reached..length);
        match missing.is_empty() {
            true => (bytes, 0..0),
            false => (bytes, missing),
        }
    }
}

fn overlap(layer: &Layer, span: &Range<u64>) -> Range<u64> {
    layer.at.max(span.start)..(layer.at + layer.bytes).min(span.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer(digest: u8, at: u64, bytes: u64) -> Layer {
        Layer {
            digest: Digest::new([digest; 32]),
            at,
            bytes,
        }
    }

    #[test]
    fn a_table_comes_back_without_what_cannot_be() {
        let good = [layer(1, 512, LEAST), layer(2, 512 + LEAST, LEAST)];
        let bad = [
            layer(3, 900_000, LEAST - 1),
            layer(4, u64::MAX, LEAST),
            layer(5, 1, 1 << 20),
            layer(6, LEAST, LEAST),
        ];
        let table = encode(&[bad.as_slice(), good.as_slice()].concat());
        assert_eq!(decode(&table, 1 << 20), good);
        let cut = &table[..table.len() - 1];
        assert_eq!(decode(cut, 1 << 20), [good[0]]);
        let many = vec![good[0]; ROWS + 9];
        assert_eq!(encode(&many).len() as u64, TABLE);
    }

    /// What this machine has of an archive, of a file with these bytes.
    fn own(file: &[u8], has: &[(Layer, u64)]) -> Own {
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(path.path(), file).expect("it is written");
        let file = Arc::new(std::fs::File::open(path.path()).expect("it is there"));
        let found = has.iter();
        let found = found.map(|(layer, from)| Found::new(*layer, Arc::clone(&file), *from));
        Own::new(found.collect())
    }

    #[test]
    fn what_is_here_is_filled_in_and_the_rest_is_named() {
        let own = own(
            b"..lower.upper",
            &[(layer(1, 20, 5), 8), (layer(2, 10, 5), 2)],
        );
        let fill = |span: Range<u64>| {
            let (bytes, missing) = own.fill(&span);
            (String::from_utf8_lossy(&bytes).replace('\0', "-"), missing)
        };
        assert_eq!(fill(10..15), ("lower".to_owned(), 0..0));
        assert_eq!(fill(21..24), ("ppe".to_owned(), 0..0));
        assert_eq!(fill(8..17), ("--lower--".to_owned(), 0..9));
        assert_eq!(fill(10..22), ("lower-----up".to_owned(), 5..10));
        assert_eq!(fill(12..30), ("wer-----upper-----".to_owned(), 3..18));
        assert!(own.touches(&(14..15)) && !own.touches(&(15..20)));
    }

    #[test]
    fn bytes_that_a_file_lacks_are_missing() {
        let own = own(b"short", &[(layer(1, 0, 4), 0), (layer(2, 4, 9), 4)]);
        assert_eq!(own.fill(&(0..13)).1, 4..13);
        assert_eq!(own.fill(&(0..4)), (b"shor".to_vec(), 0..0));
    }

    proptest! {
        #[test]
        fn any_table_is_read(table: Vec<u8>, length: u64) {
            let mut reached = 0;
            for layer in decode(&table, length) {
                prop_assert!(layer.at >= reached);
                reached = layer.at + layer.bytes;
            }
            prop_assert!(reached <= length);
        }
    }
}
