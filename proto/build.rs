//! Compiles the .proto files in Rust (no protoc) and generates messages, stubs and the reflection descriptor set.

use std::path::PathBuf;

use prost::Message;

/// Files of `mayastor.v1`; they import each other by bare name, so their folder is an include root.
const MAYASTOR_V1: [&str; 5] = [
    "common.proto",
    "registration.proto",
    "host.proto",
    "bdev.proto",
    "stats.proto",
];
/// Files of `io_engine.v1`.
const IO_ENGINE_V1: [&str; 2] = ["v1/subsystem.proto", "v1/engine.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let roots = ["mayastor/v1", "io_engine"];
    for root in ["mayastor", "io_engine"] {
        println!("cargo::rerun-if-changed={root}");
    }
    let descriptors = protox::compile(MAYASTOR_V1.iter().chain(&IO_ENGINE_V1), roots)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut builder =
        tonic_prost_build::configure().type_attribute(".", "#[derive(serde::Serialize)]");
    // JSON shows the names of the .proto files; the generator turns camelCase ones into snake_case.
    for file in &descriptors.file {
        for message in &file.message_type {
            for field in message
                .field
                .iter()
                .filter(|f| f.name().contains(|c: char| c.is_ascii_uppercase()))
            {
                let path = format!(".{}.{}.{}", file.package(), message.name(), field.name());
                builder = builder
                    .field_attribute(path, format!("#[serde(rename = \"{}\")]", field.name()));
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
