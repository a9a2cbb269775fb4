# Two commands matter: `make demo` and `make test`. Both install what they need into .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PROMPT ?= Once upon a time

.PHONY: demo test check bench chaos demo-model clean

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

# Three nodes on this machine under load and seeded faults; ARGS such as "--seconds 60 --seed 7", --help tells all.
chaos: $(VENV)/.ready-test
	$(BIN)/python -m tests.chaos.run $(ARGS)

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

# What llama.cpp is built from and with which flags: CMAKE_ARGS, or those that suit this machine now. The file is only
# rewritten when that is something else, so that it is newer than .llama when there is something to build.
LLAMA := $(shell grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml)
$(VENV)/.build: FORCE | $(BIN)/python
	@flags="$$($(BIN)/python daemons/lifecycle/build_flags.py)" && now="$$(printf '%s\n' '$(LLAMA)' "$$flags")" && \
	  { [ "$$now" = "$$(cat $@ 2>/dev/null)" ] || printf '%s\n' "$$now" >$@; }
FORCE:

# pip's cache knows no flags. So the only build that goes into it, or comes out, is that for this machine's CPU.
INSTALL_LLAMA = CMAKE_ARGS="$$(sed 1d $(VENV)/.build)" $(BIN)/pip install --quiet --force-reinstall --no-deps $(LLAMA)
NO_CACHE := --no-cache-dir --no-binary llama-cpp-python

$(VENV)/.llama: $(VENV)/.build
	@echo "installing $(LLAMA) into $(VENV); compiling llama.cpp takes some minutes the first time"
	@$(INSTALL_LLAMA) $(if $(CMAKE_ARGS)$(shell grep GGML_CUDA=ON $<),$(NO_CACHE))
	@touch $@

# llama.cpp has to decode a few tokens before it counts as installed. A wheel that pip kept is replaced when it does not.
$(VENV)/.ready: pyproject.toml $(VENV)/.llama
	@echo "installing rbee into $(VENV)"
	@$(BIN)/pip install --quiet --editable '.[all]'
	@$(BIN)/llm-worker-rbee self-test || { echo "compiling llama.cpp again, without pip's cache"; \
	  $(INSTALL_LLAMA) $(NO_CACHE) && $(BIN)/llm-worker-rbee self-test; } || { $(BIN)/rbee doctor; exit 1; }
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@$(BIN)/pip install --quiet --editable '.[all,test,check]'
	@touch $@
