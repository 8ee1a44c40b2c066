//! Compiles llhttp as Debian's `node-llhttp` brings it, with the shim that writes down what it reads.

use std::path::Path;

const SOURCES: &str = "/usr/share/llhttp";
const HEADERS: &str = "/usr/share/include/llhttp";

fn main() {
    println!("cargo:rerun-if-changed=llhttp_reader.c");
    assert!(Path::new(SOURCES).join("llhttp.c").exists(), "{SOURCES}: install the package node-llhttp");
    let mut build = cc::Build::new();
    for file in ["api.c", "http.c", "llhttp.c"] {
        build.file(Path::new(SOURCES).join(file));
    }
    build.file("llhttp_reader.c").include(HEADERS).define("LLHTTP_STRICT_MODE", "1").warnings(false);
    build.compile("llhttp_reader");
}
