//! Compiles the contracts without `protoc`, and keeps their descriptors with our own options in them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

type Anything = Result<(), Box<dyn std::error::Error>>;

#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]
fn main() -> Anything {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=turnstile");

    let mut files = Vec::new();
    find_contracts(&root.join("turnstile"), &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;

    // Encoded by protox: prost's own types would drop our options.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &descriptors)?;
    write_commands(&prost_reflect::DescriptorPool::decode(&descriptors[..])?, &out)?;

    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    tonic_prost_build::configure()
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}

fn find_contracts(folder: &Path, files: &mut Vec<PathBuf>) -> Anything {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_contracts(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Every request with a `request_id` is a `Command`.
fn write_commands(pool: &prost_reflect::DescriptorPool, out: &Path) -> Anything {
    let mut code = String::new();
    for message in pool.all_messages().filter(|m| m.full_name().starts_with("turnstile.")) {
        if message.get_field_by_name("request_id").is_some() {
            let path = message.full_name().trim_start_matches("turnstile.").replace('.', "::");
            writeln!(
                code,
                "impl Command for {path} {{ fn request_id(&self) -> &str {{ &self.request_id }} }}"
            )?;
        }
    }
    fs::write(out.join("commands.rs"), code)?;
    Ok(())
}
