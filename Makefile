# Every target makes what it needs; `make demo` and `make test` are the two commands of the README.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU := .venv-gpu
READY := $(VENV)/.ready

.PHONY: demo test test-gpu interop sweep check format bench clean

demo: $(READY)
	$(BIN)/wherry demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# An environment of its own, as the wheels of onnxruntime for CPUs and for GPUs break each other.
test-gpu:
	test -x $(GPU)/bin/python || $(PYTHON) -m venv $(GPU)
	$(GPU)/bin/python -m pip install -q -c constraints.txt -e '.[gpu,export,dev]'
	$(GPU)/bin/python -m pytest -m gpu tests/gpu

interop: $(READY)
	$(BIN)/python -m pytest -m interop tests/interop

sweep: $(READY)
	$(BIN)/python -m pytest -m sweep tests

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python benchmarks/tokenization.py
	$(BIN)/python benchmarks/embeddings.py
	$(BIN)/python benchmarks/generation.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,export,demo,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(GPU) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
