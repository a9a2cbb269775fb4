# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PROMPT ?= Once upon a time

.PHONY: demo test check bench demo-model clean

demo: $(VENV)/.ready
	$(BIN)/rbee infer --ephemeral --model demo --max-tokens 240 --prompt "$(PROMPT)"

test: $(VENV)/.ready-test
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

check: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Ratios against llama-server and llama-cpp-python's own server, which are built or installed outside the repository.
bench: $(VENV)/.ready-test
	$(BIN)/python -m tests.bench.run $(ARGS)

# Trains the model that ships as daemons/models/demo/demo.gguf again: about half an hour on two cores.
demo-model: $(VENV)/.ready
	$(BIN)/pip install --quiet --editable '.[demo-model]'
	OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 $(BIN)/python -m daemons.models.demo.train --out build/demo-model

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rbee needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "this Python cannot make virtual environments; on Debian run: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# llama.cpp is compiled for this machine's CPU (or as CMAKE_ARGS says) and has to decode a few tokens before it counts
# as installed. A wheel that pip kept from a build with other flags is replaced when it does not.
PIP_INSTALL = CMAKE_ARGS="$$($(BIN)/python daemons/lifecycle/build_flags.py)" $(BIN)/pip install --quiet

$(VENV)/.ready: pyproject.toml daemons/lifecycle/build_flags.py | $(BIN)/python
	@echo "installing rbee into $(VENV); compiling llama.cpp takes some minutes the first time"
	@$(PIP_INSTALL) --editable '.[all]'
	@$(BIN)/llm-worker-rbee self-test || { echo "compiling llama.cpp again, without pip's cache"; \
	  $(PIP_INSTALL) --no-cache-dir --force-reinstall --no-deps --no-binary llama-cpp-python \
	    "$$($(BIN)/pip freeze | grep -i '^llama.cpp.python==')" && $(BIN)/llm-worker-rbee self-test; } \
	  || { $(BIN)/rbee doctor; exit 1; }
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@$(BIN)/pip install --quiet --editable '.[all,test,check]'
	@touch $@
