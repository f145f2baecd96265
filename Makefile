# `make demo` and `make test` each make .venv themselves. On Linux, pip's default torch is the CUDA build (gigabytes);
# TORCH_INDEX=URL takes torch from another wheel index, for example the CPU index named on PyTorch's install page.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
READY = $(VENV)/.ready
RUN ?= runs/demo
# One thread a worker: two pytest workers share a laptop's cores without quarrelling over them.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: install demo test test-slow lint types clean

demo: $(READY)
	$(VENV)/bin/interlace demo --run $(RUN)

test: lint types
	$(PYTEST) -m "not slow"

test-slow: $(READY)
	$(PYTEST) -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The rooms lie at the top level and are one package once installed; links show mypy that package.
types: $(READY)
	@mkdir -p build/types/interlace
	@for room in backbone data_recipes tasks pretrain launchers eval; do ln -sfn ../../../$$room build/types/interlace/$$room; done
	MYPYPATH=build/types $(VENV)/bin/mypy --package interlace

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch)
	$(PIP) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
