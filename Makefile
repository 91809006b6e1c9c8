# One command each: everything needed is installed into .venv first, once.
# PYTHON=3.12 or PYTHON=/path/to/python3.10 chooses the Python, and with it TensorFlow;
# VENV=.venv-newest the environment's folder.

override VENV := $(or $(strip $(VENV)),.venv)
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): make knows no folders with blanks in their names)
endif
export VENV PYTHON
python := $(VENV)/bin/python
setup := requirements.txt setup.py pyproject.toml tools/setup_venv.sh
pytest := $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-full faults fuzz lint docs clean

help:
	@echo "make demo    train, evaluate and export a small student on rooms (minutes)"
	@echo "make test    run the tests"
	@echo "make test-full  run all cases, several processes, full size (minutes, 4 GB)"
	@echo "make faults  repeat every fault of docs/reliability.md (minutes)"
	@echo "make fuzz    damage what is parsed, kill runs at random (long)"
	@echo "make lint    check style and format"
	@echo "make docs    build the documents as web pages, in build/docs"
	@echo "make clean   remove $(VENV) and everything built; runs/ stays"

demo: $(VENV)/ready
	@$(python) -m soka_tf.train --gin_file=gin/rooms/demo.gin --model_dir=runs/demo

test: $(VENV)/ready-dev
	@$(pytest)

test-full: $(VENV)/ready-dev
	@$(pytest) -m "not benchmark" --durations=25

faults: $(VENV)/ready-dev
	@$(pytest) -m "not benchmark" tests/faults \
	  $$(grep -oE '`[a-z_/]+\.py::test_\w+' docs/reliability.md | sort -u \
	    | sed -n '/^`faults/! s|^`|tests/|p')

fuzz: $(VENV)/ready-dev
	@$(python) -m pytest tests/fuzz/fuzz_parsers.py tests/fuzz/fuzz_kills.py

lint: $(VENV)/ready-dev
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .

# Material's notice of its successor is no fault of a page.
docs: $(VENV)/ready-dev
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --quiet
	@echo "Open build/docs/index.html; its search needs a server:"
	@echo "$(python) -m http.server --directory build/docs"

# The environment for tests serves for running, too.
$(VENV)/ready: $(setup)
	@sh tools/setup_venv.sh
	@touch $@

$(VENV)/ready-dev: $(setup) requirements-dev.txt
	@sh tools/setup_venv.sh requirements-dev.txt
	@touch $(VENV)/ready $@

# Another Python may be named than the environment has: the script finds out.
ifneq ($(PYTHON),)
ifeq ($(filter $(PYTHON).%,$(lastword $(shell $(python) -V 2>/dev/null))),)
.PHONY: $(VENV)/ready $(VENV)/ready-dev
endif
endif

clean:
	[ ! -f $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)
	rm -rf build dist soka_tf.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
