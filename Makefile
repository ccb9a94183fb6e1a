# `make` alone says what there is. Every target may be run again: what is done is not done twice.

PYTHON ?= python3
# Containers, cgroups and mounts take root; -E keeps HEARTH_* and the settings of pip.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev images up down check test soak bench lock clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what Hearth needs on this machine (Debian 12 or newer)
	@$(PYTHON) infra/setup.py

setup-dev: # the same, and what the tests need
	@$(PYTHON) infra/setup.py --dev

images: setup ## Build the runtime images that are missing or out of date
	@$(SUDO) $(BIN)/python -m runtimes.images build

up: images ## Start Hearth, deploy the examples, invoke each; stays up
	@$(SUDO) $(BIN)/hearth up --detach --examples

down: ## Stop what `make up` started
	@$(SUDO) $(BIN)/hearth down

check: setup-dev ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## make check, then every test on real containers
	@$(SUDO) $(BIN)/python -m runtimes.images build
	$(SUDO) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

SECONDS ?= 600
soak: setup-dev ## Everything at once for SECONDS (600); exits non-zero when anything is wrong
	@$(SUDO) $(BIN)/python -m runtimes.images build
	@$(SUDO) $(BIN)/python -m tests.soak --seconds $(SECONDS)

bench: ## Measure against a floor taken in the same run; writes bench/latest.json
	@$(PYTHON) infra/setup.py --bench
	@$(SUDO) $(BIN)/python -m runtimes.images build
	@$(SUDO) $(BIN)/python -m bench

lock: ## Lock the newest dependencies anew (needs a package index)
	@sh infra/lock.sh

clean: ## Remove caches; never .hearth, which holds your functions
	@$(SUDO) rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build
	@$(SUDO) find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
