# make demo | test | test-napari | test-notebooks | test-reference | notebooks | screenshots | lint | benchmark |
# int8. Each sets up what it needs; nothing is installed outside of .venv but the Debian packages of `system` (as root, or with sudo).
PYTHON ?= python3
VENV ?= .venv
REFERENCE ?= .venv-reference
REFERENCE_PYTHON ?= $(firstword $(foreach p,python3.11 python3.10 $(PYTHON),$(shell command -v $(p))))
BIN = $(VENV)/bin
# A browser and ImageMagick, since the tests open thumbnails in both; a virtual screen and what Qt draws with.
APT = chromium imagemagick xvfb xauth libegl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 \
  libxcb-shape0 libdbus-1-3 libglib2.0-0 libfontconfig1
# Where there is none, the tests of the widgets take the real screen, or are skipped.
SCREEN = $(if $(shell command -v xvfb-run),xvfb-run -a -s "-screen 0 1600x1000x24")
# Two at a time, each with one thread: the files of tests, and the notebooks, which run from top to bottom.
WORKERS = -n 2 --dist loadfile
NOTEBOOKS = --nbmake --nbmake-timeout=600 notebooks
KODAK ?= ../shared/data/kodak
TRAIN ?= ../shared/data/train

.PHONY: demo test test-napari test-notebooks test-reference notebooks screenshots lint benchmark int8 system clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/python scripts/demo.py

# Also with the paper's stack, where `make test-reference` has been run once.
test: system $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(SCREEN) $(BIN)/python -m pytest $(WORKERS) $(NOTEBOOKS) tests
	test ! -e $(REFERENCE)/.built || $(MAKE) test-reference

# Of the tests only those of the napari plugin, in a real viewer.
test-napari: system $(VENV)/.test
	$(SCREEN) $(BIN)/python -m pytest tests/test_session.py tests/test_napari_*.py

# Everything again, with the versions that the paper's stack needs (extra "reference"): torch 2.0, CompressAI and
# torchjpeg, in an environment of its own. Python 3.10 or 3.11, 6 GB; see the README for how long it takes.
test-reference: system $(REFERENCE)/.built
	OMP_NUM_THREADS=1 $(SCREEN) $(REFERENCE)/bin/python -m pytest $(WORKERS) tests

# Of the tests only the notebooks, each from top to bottom.
test-notebooks: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) $(NOTEBOOKS)

# The same, and keep their figures: after new weights, or changes to the notebooks.
notebooks: $(VENV)/.test
	$(BIN)/python scripts/notebooks.py

# The pictures in docs/images: the napari widgets in both themes, the explorer in JupyterLab.
screenshots: system $(VENV)/.test
	$(SCREEN) $(BIN)/python scripts/screenshots.py
	HYPERTHUMB_SCREENSHOT=docs/images/explorer.png $(BIN)/python -m pytest -q tests/test_notebook_browser.py

lint: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

# The table the project is judged by, efforts fast and best: half an hour on two cores. KODAK=folder: other pictures.
benchmark: $(VENV)/.test
	$(BIN)/python benchmarks/rd.py $(KODAK) --out runs/benchmark --jobs $$(nproc) --best -1 -0.7 -0.4 -0.1 0.2 0.5

# The bundled weights' int8 files, after new weights: an old one is left unread. TRAIN=folder of pictures.
int8: $(VENV)/.test
	$(BIN)/python -m pip install -q -c constraints.txt nncf
	$(BIN)/python scripts/quantise.py --pictures $(TRAIN)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { scripts/apt.sh python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.core: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,train,napari,notebook]'
	touch $@ $(VENV)/.core

$(REFERENCE)/.built: setup.cfg pyproject.toml
	@$(REFERENCE_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' || \
	  { echo 'torch 2.0 needs Python 3.10 or 3.11: make test-reference REFERENCE_PYTHON=...' >&2; exit 1; }
	test -x $(REFERENCE)/bin/python || $(REFERENCE_PYTHON) -m venv $(REFERENCE) || \
	  { scripts/apt.sh python3-venv && $(REFERENCE_PYTHON) -m venv $(REFERENCE); }
	$(REFERENCE)/bin/python -m pip install -q -e '.[test,train,napari,notebook,reference]'
	touch $@

system:
	@scripts/apt.sh $(APT)

clean:
	rm -rf $(VENV) $(REFERENCE) build dist *.egg-info demo runs
