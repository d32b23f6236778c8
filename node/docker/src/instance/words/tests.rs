use super::*;

#[test]
fn last_words_begin_with_a_line() {
    let said = |pieces: &[&str]| {
        let words = LastWords::default();
        for piece in pieces {
            words.note(piece.as_bytes());
        }
        words.explain("it exited")
    };
    assert_eq!(said(&[]), "it exited");
    assert_eq!(said(&["one\n", "two\n"]), "it exited; it wrote: one\ntwo");
    let long = format!("{}\nlast but one\nlast\n", "x".repeat(LAST_WORDS));
    let expected = "it exited; it wrote: last but one\nlast";
    assert_eq!(said(&[&long]), expected);
    assert_eq!(said(&["y", &long]), expected);
    // One line that is longer than all that is kept.
    let line = "z".repeat(LAST_WORDS + 1);
    assert_eq!(
        said(&[&line]).len(),
        "it exited; it wrote: ".len() + LAST_WORDS
    );
}
