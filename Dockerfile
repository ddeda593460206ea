# syntax=docker/dockerfile:1
# The backend for Label Studio. The command `endpoint` instead of `serve` starts the predict endpoint.
#
#   docker build -t prelabel .                            # CPU
#   docker build -t prelabel --build-arg TORCH=cu126 .    # NVIDIA GPU, run with --gpus all
ARG PYTHON=3.11
ARG UV=0.13

FROM astral/uv:${UV} AS uv

FROM python:${PYTHON}-slim-bookworm AS build
COPY --from=uv /uv /usr/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# PyTorch build: cpu, cu126, cu130, … or empty for the one of the package index.
ARG TORCH=cpu
WORKDIR /source
# Dependencies are large and rarely change, so they are a layer of their own.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv /app && \
    uv pip install --python /app ${TORCH:+--torch-backend=$TORCH} --requirement pyproject.toml
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /app --no-deps .

FROM python:${PYTHON}-slim-bookworm
# All data is in /data, including the caches that libraries keep in the home of the user.
RUN useradd --uid 1000 --home-dir /data --create-home prelabel
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH HOME=/data PRELABEL_HOME=/data PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 9090 9091
# With basic auth the status is 401, which means healthy as well.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9090, timeout=3); c.request('GET', '/health'); exit(c.getresponse().status not in (200, 401))"]
ENTRYPOINT ["prelabel"]
CMD ["serve", "--host", "0.0.0.0", "--port", "9090"]
