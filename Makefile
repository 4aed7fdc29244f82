# `make demo` and `make test` need Python 3.11 or newer and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Two processes on two cores: one thread each.
DEMO := OMP_NUM_THREADS=1 $(RUN) -m torch.distributed.run --standalone --nproc_per_node=2

.PHONY: help venv demo test lint format clean

help:
	@echo "make demo   train and score a small model on an embedded data set (minutes, two cores)"
	@echo "make test   run the test suite"
	@echo "make venv   only make the environment in $(VENV)"
	@echo "make lint   ruff check and format check; make format mends"

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -c constraints.txt
	touch $@

demo: venv
	rm -rf dataset/mini outputs/mini
	$(RUN) -m data.mini dataset/mini
	$(DEMO) train_v2vt_sum.py --config configs/mini.yaml
	@echo "The run is in outputs/mini: results_test.json, predictions_test.jsonl, checkpoint.pth, log.jsonl, ..."

test: venv
	$(RUN) -m pytest

lint: venv
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: venv
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) dataset/mini outputs/mini
