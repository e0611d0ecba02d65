# Two images from one source:
#
#   docker build --target keyferry  --build-arg VERSION=v1.2.3 -t ghcr.io/keyferry/keyferry:v1.2.3 .
#   docker build --target refresher --build-arg VERSION=v1.2.3 -t ghcr.io/keyferry/refresher:v1.2.3 .
#
# `make images` builds the same without Docker, as tar files.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=v0.0.0-dev
ARG TARGETOS=linux
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH tools/build "$VERSION" /out ./cmd/...

FROM scratch AS refresher
COPY --from=build /out/refresher /refresher
USER 65532:65532
ENTRYPOINT ["/refresher"]

FROM scratch AS keyferry
# For providers on the public internet and targets with public certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/webhook /out/broker /out/controller /out/keyferry /
USER 65532:65532
ENTRYPOINT ["/keyferry"]
