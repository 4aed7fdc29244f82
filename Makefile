# `make demo` and `make test` require Python 3.11 or newer and make; everything else is installed in .venv.
# With `PYTHON=python VENV=` (empty), they use the environment of that Python as it is and install nothing.
PYTHON ?= python3
VENV := .venv
RUN := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
REQUIRE_PYTHON := import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version.split()[0])
# Two processes on two cores: one thread each.
DEMO := OMP_NUM_THREADS=1 $(RUN) -m torch.distributed.run --standalone --nproc_per_node=2
MINI := dataset/mini

.PHONY: help venv demo app test soak bench lint format clean

help:
	@echo "make demo   run the whole pipeline on small rendered videos (minutes on two cores)"
	@echo "make app    serve the demo page with the model of make demo, at http://127.0.0.1:7860"
	@echo "make test   run the test suite"
	@echo "make soak   run all tests, with 200 kills and 50,000 damaged files (half an hour); see docs/reliability.md"
	@echo "make bench  benchmark against peers and the machine's limits (minutes); see docs/performance.md"
	@echo "make venv   create the environment in $(or $(VENV),.venv)"
	@echo "make lint   check style and types; make format formats the code"
	@echo "make TARGET PYTHON=python VENV=   use the active environment as it is; install nothing"

ifeq ($(VENV),)
venv:
	@$(PYTHON) -c "$(REQUIRE_PYTHON)"
else
venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-app.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c "$(REQUIRE_PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-app.txt \
		-r requirements-dev.txt -c constraints.txt
	touch $@
endif

demo: venv
	rm -rf $(MINI) outputs/mini
	@echo "1 of 5: render 160 videos"
	$(RUN) -m data.mini $(MINI)
	@echo "2 of 5: extract frame features"
	$(DEMO) extract_features.py --videos $(MINI)/videos --out $(MINI)/feat --annotations $(MINI)/anno/*.json \
		--blip $(MINI)/frame_encoder.pth --vt_clip $(MINI)/vt_clip.pth
	@echo "3 of 5: train and evaluate"
	$(DEMO) train_v2vt_sum.py --config configs/mini.yaml
	@echo "4 of 5: summarize a test video"
	$(RUN) summarize.py $(MINI)/videos/mini_test_000.mp4 --config configs/mini.yaml --out outputs/mini/summaries \
		--pretrained_model outputs/mini/checkpoint.pth --blip $(MINI)/frame_encoder.pth
	@echo "5 of 5: write the report"
	$(RUN) -m report outputs/mini
	@echo
	@echo "Open in a browser:"
	@echo "  $(CURDIR)/outputs/mini/report.html: scores and predictions of the run"
	@echo "  $(CURDIR)/outputs/mini/summaries/mini_test_000/index.html: the summary of a test video"
	@echo "Other files of the run are in outputs/mini: results_test.json, predictions_test.jsonl, checkpoint.pth, log.jsonl, ..."
	@echo "make app serves the demo page with this model."

app: venv
	test -f outputs/mini/checkpoint.pth || $(MAKE) demo
	$(RUN) app.py --config configs/mini.yaml --pretrained_model outputs/mini/checkpoint.pth \
		--blip $(MINI)/frame_encoder.pth --examples $(MINI)/videos/mini_test_00*.mp4

# Two processes of one thread each: many tests wait for the disk, Java or the browser.
test: venv
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadgroup

soak: venv
	VTSUM_KILLS=200 VTSUM_DAMAGES=5000 OMP_NUM_THREADS=1 $(RUN) -m pytest -m "" -n 2 --dist loadgroup

bench: venv
	$(RUN) -m benchmarks

lint: venv
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) tests/style.py

format: venv
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) $(MINI) outputs/mini
