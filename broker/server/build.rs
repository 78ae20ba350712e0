//! Compiles the peer and control protocols without any external compiler.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/peer.proto", "proto/control.proto"], ["proto"])?;
    // The command line prints the answers of the control service as they are.
    let printed = "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]";
    tonic_prost_build::configure()
        .bytes(".")
        .type_attribute(".chronik.control.v1", printed)
        .field_attribute(".chronik.control.v1.DescribeReply.self", "#[serde(rename = \"self\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
