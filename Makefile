# make demo | test | lint | benchmark. Each sets up what it needs; nothing is installed outside of
# .venv but the Debian packages of `system` (as root, or with sudo).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
APT = chromium imagemagick
KODAK ?= ../shared/data/kodak

.PHONY: demo test lint benchmark system clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/python scripts/demo.py

test: system $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

# The table the project is judged by; KODAK=folder measures other pictures.
benchmark: $(VENV)/.test
	$(BIN)/python benchmarks/rd.py $(KODAK) --out runs/benchmark

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { scripts/apt.sh python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.core: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,train]'
	touch $@ $(VENV)/.core

# A browser and ImageMagick: the tests open thumbnails in both.
system:
	@scripts/apt.sh $(APT)

clean:
	rm -rf $(VENV) build dist *.egg-info demo runs
