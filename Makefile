# make demo: from nothing to runs/demo/report.html.  make test: the fast tests.  `make help` lists the rest.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
PYTEST_ARGS ?=
DEMO_OUT ?= runs/demo
DEMO_ARGS ?=

BIN := $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
CONFIGS = $(shell find configs -name '*.yaml' 2>/dev/null | sort)
BENCHES = $(sort $(filter-out $(if $(shell command -v nvidia-smi),,%_gpu.py),$(wildcard tools/bench_*.py)))

.PHONY: help demo install dev test test-slow check bench clean

help:
	@echo "make demo       distil the shipped teacher on this machine; opens nothing, writes $(DEMO_OUT)/report.html"
	@echo "make test       the fast tests            make test-slow  every test"
	@echo "make check      ruff, mypy, every config  make bench      every tools/bench_*.py, into runs/bench/"
	@echo "make clean      caches and build output (keeps runs/); 'make clean-all' also removes $(VENV)"

$(VENV)/.made:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'vdistill needs Python 3.11 or newer; say make PYTHON=/path/to/it')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
	touch $@

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

demo: install
	$(BIN)/vdistill demo --out $(DEMO_OUT) $(DEMO_ARGS)
	@echo "report: $(abspath $(DEMO_OUT))/report.html"

test: dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vdistill check $(CONFIGS)

bench: install
	@mkdir -p runs/bench
	@set -e; for bench in $(BENCHES); do \
		echo "== $$bench"; $(BIN)/python $$bench --json runs/bench/$$(basename $$bench .py).json; done

.PHONY: clean-all
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find vdistill tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV)
