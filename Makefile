# make demo | test | test-napari | test-notebooks | notebooks | lint | benchmark. Each sets up what it needs;
# nothing is installed outside of .venv but the Debian packages of `system` (as root, or with sudo).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
APT = chromium imagemagick
APT_NAPARI = xvfb xauth libegl1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 \
  libxcb-shape0 libdbus-1-3 libglib2.0-0 libfontconfig1
XVFB = xvfb-run -a -s "-screen 0 1600x1000x24"
KODAK ?= ../shared/data/kodak

.PHONY: demo test test-napari test-notebooks notebooks lint benchmark system clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/python scripts/demo.py

test: system $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest
	$(MAKE) test-notebooks

# The widgets, in a real viewer on a virtual screen.
test-napari: $(VENV)/.napari
	@scripts/apt.sh $(APT_NAPARI)
	$(XVFB) $(BIN)/python -m pytest tests/test_session.py tests/test_napari_*.py

# Every notebook from top to bottom. The explorer in a browser is among the other tests.
test-notebooks: $(VENV)/.test
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks

# The same, and keep their figures: after new weights, or changes to the notebooks.
notebooks: $(VENV)/.test
	$(BIN)/python scripts/notebooks.py

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
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,train,notebook]'
	touch $@ $(VENV)/.core

$(VENV)/.napari: $(VENV)/.test
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,train,notebook,napari]' 'napari[pyqt6]' pytest-qt 'dask[array]'
	touch $@

# A browser and ImageMagick: the tests open thumbnails in both.
system:
	@scripts/apt.sh $(APT)

clean:
	rm -rf $(VENV) build dist *.egg-info demo runs
