# make demo | test | test-napari | lint | benchmark. Each sets up what it needs; nothing is installed outside of
# .venv but the Debian packages of `system` (as root, or with sudo).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A browser and ImageMagick, since the tests open thumbnails in both; a virtual screen and what Qt draws with.
APT = chromium imagemagick xvfb xauth libegl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 \
  libxcb-shape0 libdbus-1-3 libglib2.0-0 libfontconfig1
# Where there is none, the tests of the widgets take the real screen, or are skipped.
SCREEN = $(if $(shell command -v xvfb-run),xvfb-run -a -s "-screen 0 1600x1000x24")
KODAK ?= ../shared/data/kodak

.PHONY: demo test test-napari lint benchmark system clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/python scripts/demo.py

test: system $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SCREEN) $(BIN)/python -m pytest

# Of the tests only those of the napari plugin, in a real viewer.
test-napari: system $(VENV)/.test
	$(SCREEN) $(BIN)/python -m pytest tests/test_session.py tests/test_napari_*.py

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
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,train,napari]'
	touch $@ $(VENV)/.core

system:
	@scripts/apt.sh $(APT)

clean:
	rm -rf $(VENV) build dist *.egg-info demo runs
