# One command each: everything needed is installed into .venv first, once.
# PYTHON=/path/to/python3.10 chooses the Python.

python := .venv/bin/python
setup := requirements.txt setup.py pyproject.toml tools/setup_venv.sh

.PHONY: help demo test test-full lint clean

help:
	@echo "make demo    train, evaluate and export a small student on rooms (minutes)"
	@echo "make test    run the tests"
	@echo "make test-full  run a paper's run at full size, too (minutes, 4 GB)"
	@echo "make lint    check style and format"
	@echo "make clean   remove .venv and everything built; runs/ stays"

demo: .venv/ready
	@$(python) -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

test: .venv/ready-dev
	@$(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-full: .venv/ready-dev
	@$(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not benchmark" --durations=25

lint: .venv/ready-dev
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .

# The environment for tests serves for running, too.
.venv/ready: $(setup)
	@sh tools/setup_venv.sh
	@touch $@

.venv/ready-dev: $(setup) requirements-dev.txt
	@sh tools/setup_venv.sh requirements-dev.txt
	@touch .venv/ready $@

clean:
	rm -rf .venv build dist soka_tf.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
