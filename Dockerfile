# The image of every role: docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:… -t surgeline .
# Name the base by digest, as above: a tag is whatever it was moved to last.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN ["python", "-m", "venv", "/opt/surgeline"]
ENV PATH=/opt/surgeline/bin:$PATH
WORKDIR /build
# What changes seldom comes first. No compiler is here: each dependency is a wheel whose hash is in the lock file.
COPY requirements.runtime.lock requirements.build.lock ./
RUN ["pip", "install", "--only-binary=:all:", "--require-hashes", "-r", "requirements.runtime.lock", "-r", "requirements.build.lock"]
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE surgeline.example.yaml ./
COPY topics topics
COPY avro_schemas avro_schemas
COPY pipeline pipeline
RUN ["pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "."]
# What only built it, and could only help an intruder, does not travel. A step of its own: exec form chains no commands.
# hadolint ignore=DL3059
RUN ["pip", "uninstall", "--yes", "setuptools", "pip"]

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="surgeline" \
      org.opencontainers.image.description="Keeps hospital capacity systems and the EHR consistent while the hospital is under surge" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A name for the number: the audit log tells operators apart by name, and the base has no such user.
RUN ["useradd", "--uid", "10001", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "surgeline"]
# For tables, where nothing else is mounted: a new volume takes its owner from here.
# hadolint ignore=DL3059
RUN ["install", "--directory", "--owner=10001", "--group=10001", "--mode=0750", "/var/lib/surgeline"]
COPY --from=build /opt/surgeline /opt/surgeline
ENV PATH=/opt/surgeline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/surgeline
# Each role answers /livez and /readyz; whoever runs it asks there.
HEALTHCHECK NONE
STOPSIGNAL SIGTERM
ENTRYPOINT ["surgeline"]
CMD ["--help"]
