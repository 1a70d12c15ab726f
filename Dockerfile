# docker build -t mllmrec .                                                          torch for CPUs
# docker build -t mllmrec --build-arg TORCH=cu130 .                                  torch for CUDA 13.0
# docker run --rm -v "$PWD/runs:/runs" mllmrec mllmrec-train hydra.run.dir=/runs/first
# docker run --rm --gpus all -v "$PWD/runs:/runs" mllmrec mllmrec-train trainer=gpu hydra.run.dir=/runs/first
FROM python:3.11-slim
ARG TORCH=cpu
ARG EXTRAS=endpoint,serve,text
COPY --from=ghcr.io/astral-sh/uv:0.9 /uv /usr/local/bin/uv
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY mllmrec mllmrec
COPY hydra_plugins hydra_plugins
RUN uv pip install --system --no-cache --torch-backend "$TORCH" ".[$EXTRAS]"
RUN useradd --create-home --uid 1000 researcher && mkdir /runs && chown researcher /runs
USER 1000
WORKDIR /home/researcher
# Downloads, captions and stored phases outlive the container if this folder is a volume.
ENV MLLMREC_CACHE=/home/researcher/.cache/mllmrec
CMD ["mllmrec"]
