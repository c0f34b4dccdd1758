# Builds the image: the worker with the libraries and certificates that it needs, no shell and no package manager. It
# runs as uid 65532 on a read-only root file system. scripts/image makes the same image without Docker.
#
# The libraries are those of the build stage. Debian 12's hiredis 0.14 has no TLS, so the worker would refuse rediss://
# at startup; Ubuntu 24.04 and Debian 13 have it:
#   docker build --build-arg BUILD_BASE=swift:6.3.1-bookworm .
ARG BUILD_BASE=docker.io/library/swift:6.3.1-noble

FROM ${BUILD_BASE} AS build
WORKDIR /source
COPY . .
RUN scripts/image --tree /image

FROM scratch
COPY --from=build /image /
USER 65532:65532
# Probes and metrics are requested from outside the container.
ENV SB_WORKER_LOCAL_ADDR=0.0.0.0:8091
EXPOSE 8091
HEALTHCHECK --interval=10s --timeout=5s CMD ["/usr/local/bin/secrets-bridge-worker", "probe", "healthz"]
ENTRYPOINT ["/usr/local/bin/secrets-bridge-worker"]
