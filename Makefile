# Every target makes the virtual environment it needs, once: a fresh clone needs nothing but Python and make.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
INSTALL := $(PIP) install --quiet --no-compile -c constraints.txt

.PHONY: help demo test lint format docs tutorials build clean
.DELETE_ON_ERROR:
.SECONDARY:

help:
	@echo "make demo       causes of a gene in a real screen: table, figure, h5ad"
	@echo "make test       the test suite"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation, into docs/_build/html"
	@echo "make tutorials  run every notebook in tutorials/ (on copies)"
	@echo "make build      wheel and sdist, into dist/"

demo: $(VENV)/.installed
	$(PY) -m causcade.demo

test: $(VENV)/.installed-test
	$(PY) -m pytest -q -n $(WORKERS)

lint: $(VENV)/.installed-lint
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: $(VENV)/.installed-lint
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(VENV)/.installed-doc
	rm -rf docs/generated docs/_build
	$(PY) -m sphinx -b html -W --keep-going docs docs/_build/html
	$(PY) tools/check_links.py docs/_build/html

# Copies are run, so stored outputs in the repository stay as they are; only an exception is a failure.
tutorials: $(VENV)/.installed-doc
	@set -e; copies=$$(mktemp -d); trap 'rm -rf "$$copies"' EXIT; n=0; \
	for notebook in tutorials/*.ipynb; do \
	  [ -e "$$notebook" ] || continue; \
	  cp "$$notebook" "$$copies/"; $(VENV)/bin/jupyter-execute "$$copies/$${notebook##*/}"; n=$$((n + 1)); \
	done; echo "$$n tutorials ran"

build: $(VENV)/.installed
	$(PIP) wheel --no-deps --wheel-dir dist .

# torch first and pinned, so that nothing else chooses its build. Python compiles what is imported, pip would do all.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(INSTALL) torch
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(INSTALL) --group $*
	touch $@

clean:
	rm -rf $(VENV) dist docs/_build docs/generated .mypy_cache .pytest_cache .ruff_cache
