# Every target does its own set-up: it needs Python 3.11 or newer, and a network the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests run two threads in each of two workers; where there are two cores, threads that wait by spinning take them from those at work.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --timeout 300
# Two workers of one thread each (conftest.py sees to the threads), each with whole files, so that what a file's tests share is made once.
# Files begin in the order in which they are named, the longest early: no worker is to wait for what the other began last.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
ENGINES := 'tests/benchmark/ tests/reliability/' tests/cli/ tests/export/ tests/integer/ 'tests/test_random_networks.py tests/examples/ tests/test_*.py'
OTHERS := $(filter-out $(subst ',,$(ENGINES)),$(sort $(dir $(wildcard tests/*/test_*.py))))

.PHONY: demo environment test doctest site links check format clean
.NOTPARALLEL:

# The main job on the embedded digits; for instance: make demo ARGS="--data fashion-mnist --epochs 3"
demo: $(VENV)/.installed-demo
	$(BIN)/bitwright demo $(ARGS)

# The processor, its instruction sets and the versions of everything that decides a result: a green run says where it was one.
environment: $(VENV)/.installed-dev
	@$(BIN)/python -c 'from bitwright.benchmark import environment; print(environment())'

# For instance: make test ARGS="-m slow tests/integer"
# Every start of pytest imports PyTorch in two workers, and ends when the longest file does: so most folders share one. Those in which
# engines run do not: with all engines in one process, the kernel ended it while TVM waited for the linker (SIGSEGV with SI_KERNEL at
# the return of a read), which it does in none of these parts.
test: $(VENV)/.installed-dev
	@set -e; if [ -n '$(ARGS)' ]; then $(PYTEST) $(ARGS); else \
	  for part in $(ENGINES) '$(OTHERS)'; do $(PYTEST) $(WORKERS) $$part; done; fi

doctest: $(VENV)/.installed-dev
	$(PYTEST) --doctest-modules src

# These documents as a site, in build/site: notebooks are executed, and a warning, a link that leads nowhere or an error in a notebook fails.
site: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -n -b html -d build/doctrees docs build/site
	@echo "The site is build/site/index.html."

# Asks other servers whether what the documents link to is there.
links: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -b linkcheck -D nb_execution_mode=off -d build/doctrees-links docs build/links

# Everything that a change must pass.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test
	$(PYTEST) --doctest-modules src

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv puts in place, so its presence means that the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bitwright needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "cannot create $(VENV): on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }

# The stamps are older than pyproject.toml where it has changed since: then, and only then, pip runs again.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	@echo "Installing Bitwright into $(VENV): some minutes the first time, since PyTorch is large."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[demo]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo "Installing Bitwright and its development tools into $(VENV): some minutes the first time, since PyTorch is large."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@touch $(VENV)/.installed-demo $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/pip
	@echo "Installing Bitwright and what builds its site into $(VENV): some minutes the first time, since PyTorch is large."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev,docs]"
	@touch $(VENV)/.installed-demo $(VENV)/.installed-dev $@
