# The image in two stages: built where Swift is, run where only the libraries are that the binary links. No shell is
# needed at run time; it runs as uid 65532 on a read-only root file system.
#
# Both bases can be replaced, and with them the names of the two libraries that carry their version:
#   docker build --build-arg BUILD_BASE=swift:6.3.1-bookworm --build-arg RUNTIME_BASE=debian:bookworm-slim .
ARG BUILD_BASE=docker.io/library/swift:6.3.1-bookworm
ARG RUNTIME_BASE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_BASE} AS build
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    libev-dev libpq-dev libhiredis-dev libc-ares-dev libjansson-dev libssl-dev \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN scripts/build --stripped /secrets-bridge-worker

FROM ${RUNTIME_BASE}
ARG HIREDIS=libhiredis0.14
ARG CARES=libc-ares2
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates libcurl4 libev4 libpq5 ${HIREDIS} ${CARES} libjansson4 libssl3 \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /secrets-bridge-worker /usr/local/bin/secrets-bridge-worker
USER 65532:65532
# In a container the probes are asked from outside of its network namespace.
ENV SB_WORKER_LOCAL_ADDR=0.0.0.0:8091
EXPOSE 8091
ENTRYPOINT ["/usr/local/bin/secrets-bridge-worker"]
