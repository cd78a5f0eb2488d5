# One image for manager, proxies, loaders and the simulator: the command follows the entry point.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY hack/install-image.sh hack/
COPY requirements/image.txt requirements/build.txt requirements/
RUN hack/install-image.sh dependencies /opt/flexinfer
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN hack/install-image.sh project /opt/flexinfer

FROM python:3.11-slim-bookworm
COPY --from=build /opt/flexinfer /opt/flexinfer
ENV PATH=/opt/flexinfer/bin:$PATH PYTHONUNBUFFERED=1
# A number: Kubernetes cannot tell whether a name is root's.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["flexinfer"]
