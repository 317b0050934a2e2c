# The two commands of the README are `train` and `test`; the others are what a person repeats while working.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/minilm.yaml
NAME := $(basename $(notdir $(CONFIG)))

.PHONY: train test gpu lint types check format clean

train: $(VENV)/installed
	$(BIN)/python -m training.train --config $(CONFIG) --resume
	$(BIN)/casualty-ner extract --checkpoint runs/$(NAME) examples/article.txt

test: $(VENV)/installed lint types
	$(BIN)/python -m pytest

gpu: $(VENV)/installed
	PYTHON=$(BIN)/python bash eval/gpu.sh reports/gpu

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

check: $(VENV)/installed
	$(BIN)/casualty-ner check data/annotations

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
