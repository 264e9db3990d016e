# make demo   environment, embedded dataset, four samplers, the paper's classifiers, report: a few minutes
# make demo-grid   the same with two seeds and a figure of decision regions: a quarter of an hour
# make check  environment, lint, types and a fast part of the tests, from every room: a minute and a half
# make test   environment, lint, types, all tests; those of the CUDA kernels in a simulator
# make lint   ruff and pyright
# make docs   the documentation site, in build/site
# make bench-peers   other libraries, in an environment of their own, for benchmarks beside them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# Tests write and flush thousands of small files: in memory, where there are 8 GB of it to spare.
IN_MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 8000000 2>/dev/null \
	&& echo TMPDIR=/dev/shm)

.PHONY: demo demo-grid check test lint docs env bench-peers clean

demo: env
	@echo "Four trainings of a small network on an embedded long-tailed dataset, and the paper's classifiers on each."
	@echo "A few minutes on two cores; stop it at any time, and the same command continues."
	$(BIN)/python -m fastlt.grid
	@echo "Open that page. Then your own images: docs/getting-started.md, or $(BIN)/python -m fastlt.convert --help"

demo-grid: env
	$(BIN)/python -m fastlt.grid grid=demo_seeds

# Files of every room that take a few seconds each.
FAST := tests/core tests/longtail tests/bench/test_plain_pytorch.py \
	$(addprefix tests/kernels/test_,$(addsuffix .py,sample_order draw_plan philox winning_interval accuracy_curve)) \
	$(addprefix tests/data/test_,$(addsuffix .py,plan pipeline opening shards classes divided guess source_csv_table \
	source_image_folder source_image_list source_webdataset source_parquet source_long_tail)) \
	tests/models/test_backbones.py tests/training/test_representation.py tests/training/test_batch_hooks.py \
	tests/stage2/test_evaluate.py tests/stage2/test_classify.py tests/stage2/test_given_features.py \
	tests/experiment/test_departures.py tests/experiment/test_keys.py tests/predict/test_predict_files.py \
	tests/grid/test_grid.py::test_cells_are_frozen_before_they_run tests/report/test_answer.py \
	tests/report/test_report_faults.py tests/report/test_compare_page.py tests/test_rooms.py tests/test_registry.py \
	tests/test_docstrings.py

check: env lint
	$(IN_MEMORY) $(BIN)/python -m pytest --quiet --numprocesses=auto --maxprocesses=4 --dist=loadfile $(FAST)

test: env lint
	$(IN_MEMORY) $(BIN)/python -m pytest --durations=15 --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest --quiet tests/kernels -k cuda

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

env: $(READY)

# Installed again whenever what is to be installed changes.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# Strict: a broken link or an undocumented name ends it. It needs no network.
docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo build/site/index.html

$(VENV)/.docs-installed: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

# Other loaders, for side-by-side benchmarks. Debian: libopencv-dev libturbojpeg0-dev pkg-config g++ for FFCV,
# libavdevice59 libavfilter8 for SPDL
bench-peers:
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet 'setuptools<81' wheel numpy torch torchvision 'pillow<12'
	.venv-peers/bin/python -m pip install --quiet --no-build-isolation ffcv==1.0.2
	.venv-peers/bin/python -m pip install --quiet webdataset spdl-core spdl-io

clean:
	rm -rf $(VENV) build dist *.egg-info
