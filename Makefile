# `make demo` and `make test` require Python 3.11 or newer and make; everything else is installed in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
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
	@echo "make venv   create the environment in $(VENV)"
	@echo "make lint   check style and types; make format formats the code"

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-app.txt requirements-dev.txt constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-app.txt \
		-r requirements-dev.txt -c constraints.txt
	touch $@

demo: venv
	rm -rf $(MINI) outputs/mini
	$(RUN) -m data.mini $(MINI)
	$(DEMO) extract_features.py --videos $(MINI)/videos --out $(MINI)/feat --annotations $(MINI)/anno/*.json \
		--blip $(MINI)/frame_encoder.pth --vt_clip $(MINI)/vt_clip.pth
	$(DEMO) train_v2vt_sum.py --config configs/mini.yaml
	$(RUN) summarize.py $(MINI)/videos/mini_test_000.mp4 --config configs/mini.yaml --out outputs/mini/summaries \
		--pretrained_model outputs/mini/checkpoint.pth --blip $(MINI)/frame_encoder.pth
	$(RUN) -m report outputs/mini
	@echo "The run is in outputs/mini: report.html, results_test.json, predictions_test.jsonl, checkpoint.pth, log.jsonl, ..."
	@echo "The summary of a test video: $(CURDIR)/outputs/mini/summaries/mini_test_000/index.html"

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
