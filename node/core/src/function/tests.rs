use super::*;

#[test]
fn kind_is_read_from_the_first_bytes() {
    let check = |head: &[u8], kind| assert_eq!(ArtifactKind::sniff(head), kind, "{head:?}");
    check(b"\0asm\x01\0\0\0", Some(ArtifactKind::WasmModule));
    check(b"\0asm\x0d\0\x01\0", Some(ArtifactKind::WasmComponent));
    check(b"\n (module)", Some(ArtifactKind::WasmText));
    check(b";; words\n(module)", Some(ArtifactKind::WasmText));
    check(b" {\"simulated\":{}}", Some(ArtifactKind::SimulatedModel));
    let tar = |name: &[u8]| {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name);
        head[257..262].copy_from_slice(b"ustar");
        head
    };
    let source = tar(ArtifactKind::SOURCE_MARKER.as_bytes());
    check(&source, Some(ArtifactKind::SourceArchive));
    check(&tar(b"manifest.json"), Some(ArtifactKind::ImageArchive));
    check(b"\0asm", None);
    check(b"\x7fELF", None);
    check(b"", None);
}

#[test]
fn outbound_target_is_host_and_port() {
    let check = |text: &str| text.parse::<Outbound>().map(|o| o.to_string()).ok();
    assert_eq!(
        check("API.example.org:443").as_deref(),
        Some("api.example.org:443")
    );
    assert_eq!(check("[::1]:80").as_deref(), Some("[::1]:80"));
    for bad in [
        "",
        "host",
        "host:",
        "host:0",
        "::1:80",
        ":80",
        "a b:1",
        "host:70000",
    ] {
        assert_eq!(check(bad), None, "{bad}");
    }
}
