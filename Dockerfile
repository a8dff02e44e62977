# The production image: one static binary, nobody's shell, nothing to write but /run/usher.
#   docker build -t usher .            make image/check shows that it builds and starts
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN tools/image layout /out

# From the folder that `tools/image layout` makes: /usher, certificates, and the folders.
FROM scratch AS image
COPY --from=build /out/etc/ /etc/
COPY --from=build /out/usher /usher
# Plugins go here: FROM this image, and COPY yours.
COPY --from=build /out/plugins/ /plugins/
# For sockets of plugins and the state of an embedded broker; all else can be read-only.
COPY --from=build --chown=65532:65532 /out/run/ /run/
VOLUME /run/usher
ENV TMPDIR=/run/usher
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usher", "doctor", "--ready"]
# No entry point, so that a command is one everywhere, on Fargate and on App Runner.
CMD ["/usher", "run", "--state", "/run/usher/state"]
