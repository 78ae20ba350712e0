# Images of Chronik: `docker build --target broker .` and `docker build --target operator .`
# Static programs in an empty image, run by nobody. BUILD_BASE is any image with the Rust toolchain and a C compiler.
ARG BUILD_BASE=rust:1.95-bookworm

FROM ${BUILD_BASE} AS source
# With `--volume` or a cache mount on this folder a second build compiles only what changed.
ARG CARGO_TARGET_DIR=/build/target
ENV CARGO_TARGET_DIR=${CARGO_TARGET_DIR} RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /build/chronik
COPY . .

# `--target` keeps the flags away from procedural macros and build scripts, which cannot be static.
FROM source AS build-broker
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --target "$target" -p chronik-broker \
 && mkdir -p /out && cp "$CARGO_TARGET_DIR/$target/release/chronik-broker" /out/

FROM source AS build-operator
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --target "$target" -p chronik-operator \
 && mkdir -p /out && cp "$CARGO_TARGET_DIR/$target/release/chronik-operator" /out/

FROM scratch AS broker
COPY --from=build-broker /out/chronik-broker /chronik-broker
USER 65532:65532
EXPOSE 9092 9192 9292 9392
ENTRYPOINT ["/chronik-broker"]

FROM scratch AS operator
COPY --from=build-operator /out/chronik-operator /chronik-operator
USER 65532:65532
ENTRYPOINT ["/chronik-operator"]
