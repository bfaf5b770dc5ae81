# Needs Python 3.10 or newer, pip and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# two test processes with a thread each, a test file to one of them; PYTEST= runs all in one process
PYTEST ?= -n 2 --dist loadfile

.PHONY: quickstart test lint env clean

quickstart: $(VENV)/installed-main  ## install, then the main road on real axon cubes; ends with the path of a report
	$(BIN)/nnneuro_quickstart quickstart

test: $(VENV)/installed-test  ## install, then lint and all tests
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/installed-test  ## the linter alone
	$(BIN)/ruff check .

env: $(VENV)/installed-main  ## the environment alone

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: $(PYTHON) is `$(PYTHON) -V 2>&1`; Python 3.10 or newer is needed: make PYTHON=/path/to/python3.12"; exit 2; }
	@# Debian's python3 lacks ensurepip, so venv may fail where pip alone works; virtualenv brings its own
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv && \
	  PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv $(VENV); }

$(VENV)/installed-main: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/installed-main
	$(BIN)/python -m pip install --editable '.[test]'
	@touch $@

clean:  ## remove the environment and the quickstart's folder
	rm -rf $(VENV) build dist quickstart
