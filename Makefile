# make demo   set up .venv and run the whole loop, small, on this machine
# make test   set up .venv with every engine a CPU can run, lint, type-check, test; check that vLLM's result stands
# make test-quick   lint, type-check, and the quick tests of units: under two minutes once code is compiled
# make fuzz   the tests that draw their inputs, with other inputs than last time
# make lint   ruff, mypy, and which area may import which
# make llama-server   build the server that `shunter serve` starts for GGUF models; some minutes, once
# make test-vllm   set up .venv-vllm, where vLLM has its own torch, test that engine, write results/vllm.json

PYTHON ?= python3
TORCH ?= torch==2.13.0
LLAMA_CPP ?= llama-cpp-python==0.3.36
# A wheel takes minutes to build; it is kept outside the repository, by machine type, and rebuilt if missing.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/shunter
WHEELS ?= $(CACHE)/wheels
BIN := .venv/bin
QUICK := tests/catalog tests/docs tests/test_errors.py tests/test_files.py tests/test_public.py tests/test_vllm_result.py \
	$(addprefix tests/models/test_, datasheets.py features.py intervals.py published.py regressors.py) \
	$(addprefix tests/envs/test_, env.py guard.py objectives.py records.py scenario.py seed_ranges.py symmetry.py \
	vector.py workload.py) tests/agents/test_baselines.py tests/agents/test_policies.py \
	tests/eval/test_metrics.py tests/eval/test_modes_agree.py

.PHONY: demo test test-quick fuzz test-vllm llama-server lint clean

demo: .venv/.demo
	$(BIN)/shunter demo

test: .venv/.test llama-server lint
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python scripts/vllm_result.py check

test-quick: .venv/.test lint
	$(BIN)/python -m pytest -q -m 'not engine' $(QUICK)

fuzz: .venv/.test
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=others

llama-server:
	PYTHON='$(PYTHON)' LLAMA_CPP='$(LLAMA_CPP)' scripts/install_llama_server.sh '$(CACHE)/llama-server'

test-vllm: .venv/.test
	scripts/test_vllm.sh $(abspath $(BIN))/python .venv-vllm

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# torch first and by pip: its CPU build is found through pip's own settings; the rest by uv, which is quicker.
.venv/.torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	touch $@

.venv/.demo: .venv/.torch pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[train,transformers]'
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[train,transformers,dev]'
	CACHE='$(WHEELS)' scripts/install_llama_cpp.sh $(BIN)/python '$(LLAMA_CPP)'
	touch $@

clean:
	rm -rf .venv .venv-vllm
