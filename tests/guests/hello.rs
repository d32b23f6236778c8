//! Greets whom its input names; counts its input's words.
use std::io::Read;

fn main() {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).expect("the body is text");
    let method = std::env::var("REQUEST_METHOD").unwrap_or_default();
    println!("hello {} from Rust by {method}: {} words", input.trim(), input.split_whitespace().count());
}
