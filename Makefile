# make setup | demo | test | lint | check; EXTRAS=dev,cuda12 installs for a GPU, WORKERS=8 tests in so many processes.
PYTHON ?= python3
EXTRAS ?= dev
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRAS)

DEMO_DATA ?= data/demo
DEMO_RUN ?= runs/demo

.PHONY: setup demo test lint check clean-demo

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is too old, Python 3.11 or later is wanted: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

# A small data set in the Severstal layout, the main config at half size on it, and the evaluation. The run is short (360
# steps instead of some ten thousand), so the learning rate is higher and theta decays faster; the rest is the paper's.
demo: setup
	@test -d $(DEMO_DATA) || $(BIN)/python -m launch.synthesize --layout=severstal --out=$(DEMO_DATA) --num_images=200
	$(BIN)/python -m launch.train --config=configs/severstal_mixed.py:num_positives=60,num_masks=30 \
	  --config.data.root=$(DEMO_DATA) '--config.data.image_size=(128,800)' --config.data.dilation_px=5 \
	  --config.optimizer.learning_rate=1.0 --config.loss.decay_rate=0.3 \
	  --config.training.epochs=6 --config.training.batch_size=2 --config.training.validate_every_epochs=2 \
	  --workdir=$(DEMO_RUN)
	$(BIN)/python -m launch.evaluate --workdir=$(DEMO_RUN)

clean-demo:
	rm -rf $(DEMO_DATA) $(DEMO_RUN)

test: setup
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

check: lint test
