# One command each: everything needed is installed into .venv first, once.
# PYTHON=3.12 or PYTHON=/path/to/python3.10 chooses the Python, and with it TensorFlow;
# VENV=.venv-newest the environment's folder.

VENV ?= .venv
export VENV PYTHON
python := $(VENV)/bin/python
setup := requirements.txt setup.py pyproject.toml tools/setup_venv.sh
pytest := $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-full lint clean

help:
	@echo "make demo    train, evaluate and export a small student on rooms (minutes)"
	@echo "make test    run the tests"
	@echo "make test-full  run a paper's run at full size, too (minutes, 4 GB)"
	@echo "make lint    check style and format"
	@echo "make clean   remove .venv and everything built; runs/ stays"

demo: $(VENV)/ready
	@$(python) -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

test: $(VENV)/ready-dev
	@$(pytest)

test-full: $(VENV)/ready-dev
	@$(pytest) -m "not benchmark" --durations=25

lint: $(VENV)/ready-dev
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .

# The environment for tests serves for running, too.
$(VENV)/ready: $(setup)
	@sh tools/setup_venv.sh
	@touch $@

$(VENV)/ready-dev: $(setup) requirements-dev.txt
	@sh tools/setup_venv.sh requirements-dev.txt
	@touch $(VENV)/ready $@

# Another Python may be named than the environment has: the script finds out.
ifneq ($(PYTHON),)
.PHONY: $(VENV)/ready $(VENV)/ready-dev
endif

clean:
	rm -rf .venv* build dist soka_tf.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
