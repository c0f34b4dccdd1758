# Builds the image in two stages; the final one has only the libraries that the binary links. The worker needs no shell
# and runs as uid 65532 on a read-only root file system.
#
# Both stages use Ubuntu 24.04. Debian 12's hiredis 0.14 has no TLS, so the worker would refuse rediss:// at startup;
# Debian 13 also works. Both bases can be replaced if they are of the same release, because the packages that the
# binary needs at run time are read from the binary:
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
# libcurl is loaded at run time if a sink is configured; the binary does not link it.
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates libcurl4 $(cat /usr/share/secrets-bridge-worker/packages) \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /secrets-bridge-worker /usr/local/bin/secrets-bridge-worker
USER 65532:65532
# Probes and metrics are requested from outside the container.
ENV SB_WORKER_LOCAL_ADDR=0.0.0.0:8091
EXPOSE 8091
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/local/bin/secrets-bridge-worker", "probe", "healthz"]
ENTRYPOINT ["/usr/local/bin/secrets-bridge-worker"]
