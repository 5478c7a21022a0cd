PYTHON ?= python3
PYTEST_ARGS ?=
# Tests run on so many cores, a thread each: threads of torch's own beside them would only wait for one another.
# They keep the order that tests/conftest.py gives them: files that take long first, so that no core is left with one.
WORKERS ?= auto

VENV := .venv
BIN := $(VENV)/bin
# Named after the interpreter asked for, so that asking for another one installs again.
STAMP := $(VENV)/installed-by-$(subst /,_,$(PYTHON))
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PEERS := .peers/installed-for-$(subst /,_,$(PYTHON))
RECENT := import sys; sys.exit(sys.version_info[:2] < (3, 11))
VERSION := import sys; print("%d.%d" % sys.version_info[:2])

.PHONY: help demo test peers notebooks docs lint format coverage benchmarks wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "The first target that needs it installs everything into $(VENV), with $(PYTHON)."
	@echo "  another Python (3.10 to 3.13):    make test PYTHON=/path/to/python3"
	@echo "  a CPU-only PyTorch (small):       PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS, as for any pip install"
	@echo "  part of the tests:                make test PYTEST_ARGS='-k lava -x'"

demo: $(STAMP)  ## train, prune, verify and map a small network
	$(BIN)/sca-deploy run configs/digits.toml
	@echo 'to go on: source $(BIN)/activate, then open runs/digits/report.html in a browser'

test: lint peers  ## everything that must hold: lint, types, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

peers: $(PEERS)  ## other frameworks that the tests run our files in, in .peers/

notebooks: $(STAMP)  ## execute the notebooks and compare what they print with what they hold
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_notebooks.py

docs: $(STAMP)  ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

lint: $(STAMP)  ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(STAMP)  ## the tests, with the lines they miss
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage report

benchmarks: demo  ## run every script of benchmarks/
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script"; done

wheel: $(STAMP)  ## build sdist and wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

clean:  ## remove the environment and every cache; keeps runs/
	rm -rf $(VENV) .peers build dist docs/_build *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an install that was cut short starts again where it stopped.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '' >/dev/null 2>&1 || { \
	  echo "error: '$(PYTHON)' does not run; install Python 3.10 to 3.13, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "error: '$(PYTHON)' is Python $$($(PYTHON) -c '$(VERSION)'), supported are 3.10 to 3.13; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && \
	  [ "$$($(BIN)/python -c '$(VERSION)')" = "$$($(PYTHON) -c '$(VERSION)')" ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[lava,test]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps --ignore-requires-python lava-nc lava-dl
	$(BIN)/python -m pip install -c constraints.txt --no-deps tonic importRosbag aedat neurobench snntorch
	@touch $@

# They pin another nir than ours, or would replace our packages, so each has a folder of its own.
$(PEERS): $(STAMP)
	rm -rf .peers
	$(BIN)/python -m pip install --no-deps --target .peers/sinabs sinabs==3.1.3 nir==1.0.4 nirtorch==1.0 pbr==7.0.3
	@if $(BIN)/python -c '$(RECENT)'; then \
	  $(BIN)/python -m pip install --no-deps --target .peers/spikingjelly spikingjelly==2.0.0 loguru==0.7.3; \
	else echo "spikingjelly 2.0 needs Python 3.11: its tests will be skipped"; fi
	@touch $@
