//! Compiles the brokers' control protocol: the operator is its client; its tests are the server.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = "../broker/server/proto";
    println!("cargo:rerun-if-changed={protos}/control.proto");
    let descriptors = protox::compile(["control.proto"], [protos])?;
    tonic_prost_build::configure().build_server(true).compile_fds(descriptors)?;
    Ok(())
}
