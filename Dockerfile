# Prelabel: the backend for Label Studio, and with `endpoint` instead of `serve` the predict endpoint.
#
#   docker build -t prelabel .                            for processors
#   docker build -t prelabel --build-arg TORCH=cu126 .    for NVIDIA's GPUs; run it with --gpus all

FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/prelabel
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
# What is installed changes seldom: a layer of its own, below the source.
COPY pyproject.toml ./
RUN uv venv "$VIRTUAL_ENV" && uv pip install --no-cache --torch-backend "$TORCH" -r pyproject.toml
COPY . .
RUN uv pip install --no-cache --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 prelabel && install -d -o prelabel -g prelabel /data
COPY --from=build /opt/prelabel /opt/prelabel
ENV PATH=/opt/prelabel/bin:$PATH PRELABEL_HOME=/data PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/prelabel
VOLUME /data
EXPOSE 9090 9091
# Whoever has to say who they are (401) is answered as well: it runs.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9090, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["prelabel"]
CMD ["serve", "--host", "0.0.0.0"]
