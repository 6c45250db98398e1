# The image: the program, certificates of public authorities, no shell, no root.
# Build arguments become what `kollect --version` prints.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY rust-toolchain.toml Cargo.toml Cargo.lock ./
# Frame pointers, without which profiles have no stacks.
COPY .cargo .cargo
COPY src src
COPY benches benches
ARG VERSION=dev
ARG COMMIT=unknown
ARG BUILT=unknown
# The image below has OpenSSL, but no zlib: it becomes part of the program.
ENV LIBZ_SYS_STATIC=1
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    KOLLECT_VERSION=$VERSION KOLLECT_COMMIT=$COMMIT KOLLECT_BUILT=$BUILT \
    cargo build --locked --profile dist --bin kollect \
    && mkdir /out \
    && cp target/dist/kollect /out/kollect \
    && ln -s /kollect /out/manager

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="kollect" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://kollect.dev"
# Called as /manager, the program is `kollect manager`: argument lists written for that name work.
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/manager"]
