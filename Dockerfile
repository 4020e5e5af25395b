# The image runs as an ordinary user. --network auto then takes userns where the
# container runtime allows user namespaces, and otherwise loopback, which has no
# isolation and says so with a banner on every page. For netns:
#   docker run --user 0 --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add NET_RAW \
#     --security-opt apparmor=unconfined … serve --network netns
FROM node:20-bookworm-slim AS assets
WORKDIR /src
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund

FROM golang:1.26-bookworm AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
COPY --from=assets /src/node_modules node_modules
RUN go run ./static/gen && CGO_ENABLED=1 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /openprivatelink .

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
	&& useradd --system --uid 10001 --home-dir /data openprivatelink && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /openprivatelink /usr/local/bin/openprivatelink
USER 10001
VOLUME /data
EXPOSE 8080
ENV OPENPRIVATELINK_DATA=/data OPENPRIVATELINK_LISTEN=0.0.0.0:8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8080/readyz"]
ENTRYPOINT ["openprivatelink"]
CMD ["serve"]
