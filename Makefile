# Each target sets up all that it needs; `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test test-unit lint format bench chaos fuzz docs services-up services-down clean

# Compiled modules halve the time that each process of the tests takes to start.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SERVICES := $(BIN)/python -m tests.services
ARGS ?=
TARGET ?= amqp
RUNS ?= 10000000
JOBS ?= 2

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED) ## run the sample pipeline on the embedded default: no server needed
	@exec $(BIN)/pipeline run pipeline.toml

test: $(INSTALLED) ## run every test, on real servers; ARGS='-k name' chooses
	@exec $(SERVICES) run -- $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: $(INSTALLED) ## run the fast tests, which need no server
	@exec $(BIN)/pytest -n 2 -m 'not integration and not slow' --ignore tests/docs --ignore tests/third_party $(ARGS)

lint: $(INSTALLED) ## check style, types and the direction of imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --package tests.services
	@$(BIN)/mypy --package tests.chaos
	@$(BIN)/lint-imports

format: $(INSTALLED) ## put the code into the agreed form
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

bench: $(INSTALLED) ## measure side by side, on real servers; ARGS goes to the benchmarks
	@exec $(SERVICES) run -- $(BIN)/python -m benchmarks $(ARGS)

fuzz: $(VENV)/.fuzz ## throw RUNS (10,000,000) inputs at the TARGET (amqp, chunk, event) in JOBS (2) processes
	@exec $(BIN)/python -m tests.fuzz --target $(TARGET) --runs $(RUNS) --jobs $(JOBS) $(ARGS)

chaos: $(INSTALLED) ## let everything fail, for half an hour; ARGS='--seed 7' repeats a run
	@$(SERVICES) run -- $(BIN)/pytest tests/chaos tests/integration -m chaos
	@exec $(BIN)/python -m tests.chaos $(ARGS)

docs: $(INSTALLED) ## check the docs: that what they say is so
	@exec $(BIN)/pytest tests/docs

services-up: $(INSTALLED) ## start the tests' servers and leave them up
	@exec $(SERVICES) up

services-down: $(INSTALLED) ## end the servers that `make services-up` started
	@exec $(SERVICES) down

clean: ## end the tests' servers; delete what the other targets made, but no data of yours
	@if [ -e .services/state.json ] && [ -x $(BIN)/python ]; then $(SERVICES) down; fi
	rm -rf $(VENV) .services .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/make-venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@echo 'Installing the project into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

$(VENV)/.fuzz: pyproject.toml | $(INSTALLED)
	@echo 'Installing the fuzzer into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev,fuzz]'
	@touch $@
