# syntax=docker/dockerfile:1
# Prelabel: the backend for Label Studio, and with `endpoint` instead of `serve` the predict endpoint.
#
#   docker build -t prelabel .                            for processors
#   docker build -t prelabel --build-arg TORCH=cu126 .    for NVIDIA's GPUs; run it with --gpus all
ARG PYTHON=3.11
ARG UV=0.13

FROM astral/uv:${UV} AS uv

FROM python:${PYTHON}-slim-bookworm AS build
COPY --from=uv /uv /usr/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# Which builds of PyTorch: cpu, cu126, cu130, …; empty takes those of the package index.
ARG TORCH=cpu
WORKDIR /source
# Dependencies change seldom and are large: a layer of their own.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv /app && \
    uv pip install --python /app ${TORCH:+--torch-backend=$TORCH} --requirement pyproject.toml
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /app --no-deps .

FROM python:${PYTHON}-slim-bookworm
# Everything that lasts is in /data, also what libraries keep below their user's home.
RUN useradd --uid 1000 --home-dir /data --create-home prelabel
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH HOME=/data PRELABEL_HOME=/data PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 9090 9091
# With basic auth the answer is 401: alive as well.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9090, timeout=3); c.request('GET', '/health'); exit(c.getresponse().status not in (200, 401))"]
ENTRYPOINT ["prelabel"]
CMD ["serve", "--host", "0.0.0.0", "--port", "9090"]
