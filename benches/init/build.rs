//! Links without the C library's start-up code, which is many times as large as the program.

fn main() {
    for argument in ["-nostartfiles", "-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-s"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
