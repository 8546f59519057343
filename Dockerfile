# The runner: `docker build -t pipeline-runner .`
FROM python:3.12.11-slim-bookworm AS build
RUN python -m venv /opt/pipeline
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pipeline pipeline
COPY handlers handlers
COPY plugins plugins
RUN /opt/pipeline/bin/pip install --no-cache-dir --disable-pip-version-check '.[all]'

FROM python:3.12.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /app pipeline
COPY --from=build /opt/pipeline /opt/pipeline
COPY --chown=pipeline pipeline.toml /app/pipeline.toml
ENV PATH=/opt/pipeline/bin:$PATH \
    PYTHONUNBUFFERED=1
USER pipeline
WORKDIR /app
ENTRYPOINT ["pipeline"]
CMD ["run", "pipeline.toml"]
