# The commands of this repository. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-faults lint types prices reference lock bench down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# One stamp a lock file: a changed lock reinstalls, an unchanged one costs nothing.
$(VENV)/.installed: requirements/dev.lock pyproject.toml hatch_build.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "meterstream needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(VENV)/.installed ## make the virtual environment in .venv

demo: install ## real usage through real Kafka into real Postgres, in about a minute
	@$(BIN)/meterstream demo $(ARGS)

# Two at a time: half of a test's time is waiting. A module has a stack of its own and stays on one worker.
test: install lint types ## everything that guards the product: lint, types, unit, property, integration, crashes
	$(BIN)/python -m pytest -m "not campaign" -n 2 --dist loadfile $(ARGS)

test-faults: install ## every campaign: long runs of faults, fuzz and benchmarks
	$(BIN)/python -m pytest -m campaign $(ARGS)

lint: install ## style, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: install ## strict types, tests included
	$(BIN)/mypy -p meterstream
	$(BIN)/mypy tests

bench: install ## CPU per event beside the stock idiom and the floors
	@$(BIN)/meterstream bench $(ARGS)

prices: install ## write the price files that come from the pinned list, and name what a person has to look at
	@$(BIN)/python -m meterstream.deploy.price_book

reference: install ## write docs/reference.md from the docstrings
	@$(BIN)/python -m meterstream.deploy.reference

down: install ## stop the local stack of this folder
	@$(BIN)/meterstream down

COMPILE := uv pip compile --generate-hashes --upgrade --quiet --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --python-version 3.11
lock: ## renew requirements/*.lock (needs uv)
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra pipeline --extra otel -c requirements/dev.lock -o requirements/pipeline.lock
	echo hatchling | $(COMPILE) - -c requirements/dev.lock -o requirements/build.lock

clean: ## remove the virtual environment and caches, never .meterstream
	rm -rf $(VENV) .dev .mypy_cache .ruff_cache .pytest_cache .hypothesis
