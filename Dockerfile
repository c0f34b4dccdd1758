# The image in two stages: built where Swift is, run where only the libraries are that the binary links. No shell is
# needed at run time; it runs as uid 65532 on a read-only root file system.
#
# Ubuntu 24.04 on both sides, not Debian 12: there hiredis is 0.14, which has no TLS, and rediss:// would be refused at
# boot. Debian 13 does as well. Both bases can be replaced, as long as they are the same release; which packages the
# binary needs at run time is read off the binary:
#   docker build --build-arg BUILD_BASE=swift:6.3.1-bookworm --build-arg RUNTIME_BASE=debian:bookworm-slim .
ARG BUILD_BASE=docker.io/library/swift:6.3.1-noble
ARG RUNTIME_BASE=docker.io/library/ubuntu:24.04

FROM ${BUILD_BASE} AS build
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    libev-dev libpq-dev libhiredis-dev libc-ares-dev libjansson-dev libssl-dev \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN scripts/build --stripped /secrets-bridge-worker
RUN ldd /secrets-bridge-worker | sed -nE 's|^.* => .*/([^ /]+) .*|*/\1|p' | xargs dpkg-query -S \
  | sed -E 's/:.*//' | sort -u >/packages

FROM ${RUNTIME_BASE}
COPY --from=build /packages /usr/share/secrets-bridge-worker/packages
# libcurl is loaded where a sink is configured, and linked by nothing.
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates libcurl4 $(cat /usr/share/secrets-bridge-worker/packages) \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /secrets-bridge-worker /usr/local/bin/secrets-bridge-worker
USER 65532:65532
# In a container the metrics are asked for from outside of its network namespace.
ENV SB_WORKER_LOCAL_ADDR=0.0.0.0:8091
EXPOSE 8091
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/local/bin/secrets-bridge-worker", "probe", "healthz"]
ENTRYPOINT ["/usr/local/bin/secrets-bridge-worker"]
