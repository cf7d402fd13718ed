# Two environments (docs/decisions/0001-two-environments.md):
#   .venv        the device side alone, as an integrator installs it
#   .venv-train  training, export, benchmarks, tests and linters
#
#   make demo                    the shipped bundle on the virtual microscope
#   make demo DATA=path          the same on a folder of images or a video
#   make clinic                  the clinic's page on a virtual microscope, until Ctrl-C
#   make test | lint | check     tests, linters, both
#   make slow                    the tests that take minutes
#   make clean                   remove everything that was generated here

PYTHON ?= python3
VENV ?= .venv
TRAIN_VENV ?= .venv-train
# A folder of images, one image or a video; empty means the virtual microscope.
DATA ?=
OUT ?= out/demo
# What `make clinic` shows and where it keeps films.
SOURCE ?= paced:4:virtual:hcm_100x_c2:7:hand
STORE ?= out/clinic
# More flags for `leukoscope run`.
DEMO_ARGS ?=
# More flags for pytest; `make test TEST_ARGS=-n0` runs one test after the other.
TEST_ARGS ?=
# A file's tests stay together, for they share what is slow to make.
TEST_WORKERS = -n logical --maxprocesses 4 --dist loadfile

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PIP_INSTALL = -m pip install --disable-pip-version-check --quiet -c constraints.txt
INSTALL_INPUTS := pyproject.toml constraints.txt

.PHONY: help demo clinic test lint check slow clean

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

demo: $(VENV)/.installed
	@$(VENV)/bin/leukoscope run --source "$(or $(DATA),virtual)" --out "$(OUT)" $(DEMO_ARGS)
	@echo "report: $$(cd "$(OUT)" && pwd)/report.html"

# The first time it asks for the secret of the first account, then for that of one who examines
# and signs.
clinic: $(VENV)/.clinic
	@test -d "$(STORE)" || { \
	    echo "first account, an admin's:"; \
	    $(VENV)/bin/leukoscope clinic user add "Ada Admin" --store "$(STORE)" && \
	    echo "second account, for films; Ada's secret first:" && \
	    $(VENV)/bin/leukoscope clinic user add "Rosa Reviewer" --role reviewer \
	        --by "Ada Admin" --store "$(STORE)"; }
	@$(VENV)/bin/leukoscope serve --store "$(STORE)" --source "$(SOURCE)"

test: $(TRAIN_VENV)/.installed
	$(TRAIN_VENV)/bin/python -m pytest $(TEST_WORKERS) $(TEST_ARGS)

slow: $(TRAIN_VENV)/.installed
	$(TRAIN_VENV)/bin/python -m pytest -m slow $(TEST_ARGS)

lint: $(TRAIN_VENV)/.installed
	$(TRAIN_VENV)/bin/ruff check .
	$(TRAIN_VENV)/bin/ruff format --check .
	$(TRAIN_VENV)/bin/mypy
	$(TRAIN_VENV)/bin/lint-imports --no-logo

check: lint test

clean:
	rm -rf $(VENV) $(TRAIN_VENV) out/demo build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find edge_runtime calibration export train benchmarks tests \
	    -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that an edit needs no new install and no stale build folder can creep in.
# The stamp comes last: an install that broke off is done again.
$(VENV)/.installed: $(INSTALL_INPUTS)
	@bash tools/make_venv.sh "$(PYTHON)" "$(VENV)"
	@echo "installing the device side into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.clinic: $(VENV)/.installed
	@echo "installing the clinic's page into $(VENV)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e ".[clinic]"
	@touch $@

# ultralytics pulls in opencv-python, which needs the system's libGL. Both wheels write the
# same files, so the headless one is laid over it and the suite runs on a bare machine.
$(TRAIN_VENV)/.installed: $(INSTALL_INPUTS)
	@bash tools/make_venv.sh "$(PYTHON)" "$(TRAIN_VENV)"
	@echo "installing the training side into $(TRAIN_VENV): several GB with torch, some minutes"
	@$(TRAIN_VENV)/bin/python $(PIP_INSTALL) -e ".[train,export,openvino,tensorrt-rtx,clinic,bench,qat,test,dev]"
	@$(TRAIN_VENV)/bin/python $(PIP_INSTALL) --force-reinstall --no-deps opencv-python-headless
	@touch $@
