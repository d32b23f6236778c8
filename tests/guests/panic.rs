//! Panics.
fn main() {
    panic!("this function always panics");
}
