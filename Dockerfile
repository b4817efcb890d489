# docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t longshore:0.1.0 .
#
# Runs as 65532 with a read-only root; it writes to /tmp alone (a tmpfs, or a volume).
ARG PYTHON=docker.io/library/python:3.13-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python3 -m venv /opt/longshore
COPY requirements/consumer.txt requirements/dev.txt requirements/
# All with hashes, the build's own tool too. make lock has seen to what depends on what.
RUN /opt/longshore/bin/python -m pip install --no-deps --require-hashes -r requirements/consumer.txt \
 && sed -n '/^setuptools==/,/[^\\]$/p' requirements/dev.txt > requirements/build.txt \
 && python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY enqueue enqueue
COPY consumer consumer
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /opt/longshore/bin/python -m pip install --no-deps --no-index /wheels/*.whl \
 && /opt/longshore/bin/python -m pip uninstall --yes pip \
 && /opt/longshore/bin/python -m compileall -q /opt/longshore/lib

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="longshore" \
      org.opencontainers.image.description="Runs jobs from Redis (RQ) and Faktory queues as Kubernetes pods or containers." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/longshore/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LONGSHORE_METRICS_PORT=9464
COPY --from=build /opt/longshore /opt/longshore
# A longshore.yaml mounted here is read.
WORKDIR /etc/longshore
USER 65532:65532
EXPOSE 9464
# For engines; Kubernetes has probes of its own. An outage of the queue is no reason to restart.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=6 \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/healthz' % os.environ['LONGSHORE_METRICS_PORT'], timeout=4)"]
ENTRYPOINT ["longshore"]
CMD ["--help"]
