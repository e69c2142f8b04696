# One image for worker, signer, beat, operator and vault-bootstrap; the command says which.
FROM python:3.11-slim-bookworm AS build

RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# Every package, the build backend included, is checked against its hash.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md ./
COPY worker ./worker
COPY tasks ./tasks
COPY config ./config
RUN pip install --no-deps --no-build-isolation .


FROM python:3.11-slim-bookworm

# The folders exist with their owner, so that new volumes mounted there belong to the user too.
RUN groupadd --gid 10001 executor \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/session-executor --shell /usr/sbin/nologin executor \
 && install --directory --owner=executor --group=executor --mode=0700 \
      /var/lib/session-executor /var/lib/session-executor/state /credentials/vault /credentials/signer /credentials/worker /credentials/operator

COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

USER 10001:10001
WORKDIR /var/lib/session-executor
CMD ["session-executor", "--help"]
