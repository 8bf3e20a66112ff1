# make demo   a model trained before your eyes on built-in stories, about 5 minutes; then a story of its own
# make test   every test
# make check  format, lint, types, fast tests: what CI runs first
# make clean  remove the environment and caches; runs/ and data/ are yours and stay
#
# Each does its own set-up in .venv from pyproject.toml and constraints.txt, and the second call finds it done.
# PIP_ARGS goes to `pip install`. On Linux without a GPU this saves several GB:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# PYTHON picks the interpreter: make demo PYTHON=/opt/python3.12/bin/python3
# ARGS goes to `tinygpt train` or to pytest: make demo ARGS="--minutes 1"; make test ARGS="-k tokenizer"

PYTHON ?=
PIP_ARGS ?=
ARGS ?=
VENV = .venv
BIN = $(VENV)/bin
SPECIFICATION = pyproject.toml constraints.txt
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.PHONY: help demo test check clean

help:
	@sed -n 's/^# \(make [a-z]*\)/\1/p' Makefile

# Naming no run makes a new one (tiny_corpus, tiny_corpus-2, ...); the newest run folder is the one just trained.
demo: $(VENV)/.demo
	$(BIN)/tinygpt train $(ARGS)
	@run=$$(ls -td runs/*/config.json | head -n 1 | xargs dirname | xargs basename) && \
	echo "" && echo "\$$ tinygpt generate $$run" && $(BIN)/tinygpt generate "$$run"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/project tests/unit $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: $(VENV)/.python $(SPECIFICATION)
	@echo "Installing tinygpt and what it needs into $(VENV) (torch is the big one) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.python $(SPECIFICATION)
	@echo "Installing tinygpt and its checks into $(VENV) (torch is the big one) ..."
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.demo $@

# A `python3.12` that answers is asked for its version: a shim may be there without the interpreter behind it.
$(VENV)/.python:
	@for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    if ! "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	      echo "$$candidate cannot make environments: on Debian or Ubuntu, sudo apt install python3-venv" >&2; \
	      continue; \
	    fi; \
	    echo "Making $(VENV) with $$candidate ($$("$$candidate" --version 2>&1))"; \
	    "$$candidate" -m venv --clear $(VENV) && touch $@ && exit 0; \
	    exit 1; \
	  fi; \
	done; \
	echo "tinygpt needs Python 3.11 or newer, and none was found here." >&2; \
	echo "Install one from https://www.python.org/downloads/ (Debian or Ubuntu: sudo apt install python3 python3-venv;" >&2; \
	echo "macOS: brew install python), or name it: make demo PYTHON=/path/to/python3" >&2; \
	exit 1
