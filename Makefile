# Everything README names and CI calls. Needs Python 3.11+, pip and make; nothing else is assumed.
# make run TORCH_INDEX=URL   adds a package index that carries CPU builds of torch
# make test ARGS="-k kl"     passes arguments to pytest; so does make test-portable

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 2
PIP_FLAGS := --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SOURCES := $(wildcard pyproject.toml requirements-dev.txt plugins/*/pyproject.toml)

.PHONY: help run test test-portable test-loops check bench bench-quick bench-check bench-peers bench-scripts bench-presets docs tools wheels system-deps venv clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: venv ## set up .venv and train: esper ppo --episodes 20
	@$(BIN)/esper ppo --episodes 20

test: venv ## set up .venv and run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-portable: venv ## run what computes again, as on a processor without vector instructions
	@ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "numeric and not slow" $(ARGS)

# One line a library. Those that the plugins stand on stay installed in .venv; each library of a recipe has an environment
# of its own that adds to it, since they do not all go together.
test-loops: venv ## install the large libraries that plugins and recipes stand on or are read by, and run their tests
	@$(BIN)/python -m pip install $(PIP_FLAGS) "tensorboard>=2.16,<3"
	@$(BIN)/python -m pip install $(PIP_FLAGS) "duckdb>=1.1"
	@$(BIN)/python -m pip install $(PIP_FLAGS) torch==2.13.0 -e "plugins/rsl_rl[rsl-rl]"
	@$(BIN)/python -m pip install $(PIP_FLAGS) torch==2.13.0 -e "plugins/trl[trl]"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -e "plugins/wandb[wandb]"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -e "plugins/mlflow[mlflow]"
	@$(BIN)/python -m pytest -m loops $(ARGS)
	$(call recipe,skrl,"skrl==2.1.1")
	$(call recipe,tianshou,"tianshou==2.0.1")
	$(call recipe,rl_games,"rl-games==1.6.5")
	$(call recipe,rllib,"ray[rllib]==2.60.0")

# $(1) the recipe, $(2) what pip installs; pip may complain of Esper's own requirements, which the outer .venv holds.
define recipe
	@test -x $(VENV)/loops/$(1)/bin/python || $(BIN)/python -m venv $(VENV)/loops/$(1)
	@$(call beside,$(VENV)/loops/$(1))
	@$(VENV)/loops/$(1)/bin/python -m pip install $(PIP_FLAGS) $(2)
	@$(VENV)/loops/$(1)/bin/python -m pytest tests/integration/test_recipes.py -k "recipe_$(1)"
endef

# $(1) an environment, which from now on has what .venv has, beneath what is installed in it.
beside = inner=$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	outer=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$outer')" > "$$inner/outer.pth"

check: venv ## ruff, mypy, and generated files up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python docs/generate --check

docs: venv ## write the generated files: reference pages, registry, rules, dashboard
	@$(BIN)/python docs/generate

# ARGS: rows to measure, by a part of their names, and --rounds N. Peers that are not installed are named as such.
BENCH := PYTHONPATH=tests/benchmarks nice -n 10 $(BIN)/python -m esper_bench

bench: venv ## Esper beside its peers: print the table, record it, write docs/reference/benchmarks.md (8 minutes on a quiet machine)
	@$(BENCH) --record $(ARGS)
	@$(BIN)/python docs/generate

bench-quick: venv ## the rows that take a minute together, printed only
	@$(BENCH) --quick --rounds 5 $(ARGS)

bench-check: venv ## compare the ratios of now with the recorded ones; fails beyond their spread
	@$(BENCH) --check $(ARGS)

bench-peers: venv ## install the peers that are too large for .venv, in an environment that adds to it (1.2 GB on disk)
	@test -x $(VENV)/peers/bin/python || $(BIN)/python -m venv $(VENV)/peers
	@$(call beside,$(VENV)/peers)
	@$(VENV)/peers/bin/python -m pip install $(PIP_FLAGS) torch==2.13.0 -r tests/benchmarks/peers.txt

bench-scripts: venv ## run the other benchmarks, each of which prints a table of its own
	@for script in $(filter-out %/bench_presets.py,$(wildcard tests/benchmarks/bench_*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

# Hours, one core; a result that stands in tests/benchmarks/results is not run again. make bench-presets ARGS="Acrobot-v1"
bench-presets: venv ## train every preset and its peer of Stable-Baselines3, and write docs/reference/presets.md
	@$(BIN)/python -m pip install $(PIP_FLAGS) "gymnasium[box2d,mujoco]" minatar
	@$(BIN)/python tests/benchmarks/bench_presets.py $(ARGS)
	@$(BIN)/python docs/generate

wheels: venv ## build the wheels of the core and of every plugin into dist/
	@for project in . plugins/*/; do $(BIN)/python -m build --wheel --outdir dist "$$project" >/dev/null; done; ls dist

tools: ## build the Collector of collector-config/builder.yaml (needs Go and ocb)
	@command -v ocb >/dev/null || { echo "make tools needs ocb, the OpenTelemetry Collector builder: see collector-config/README.md" >&2; exit 1; }
	@ocb --config collector-config/builder.yaml

# Debian starts Alertmanager as a service when it installs it; tests start their own, so a service that came with this
# is ended again: RUNLEVEL=1 speaks to init scripts, systemctl to systemd.
system-deps: ## install the Debian packages that tests use: tmux, chromium, chromedriver, openssl, alertmanager
	@missing=; for program in tmux chromium chromedriver openssl; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	alerts=; command -v alertmanager >/dev/null || command -v prometheus-alertmanager >/dev/null || alerts=prometheus-alertmanager; \
	missing="$$missing $$alerts"; \
	if [ -z "$${missing// /}" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "system-deps knows only apt-get; install$$missing yourself" >&2; exit 1; fi; \
	echo "Installing$$missing with apt-get"; \
	apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tmux chromium chromium-driver openssl $$alerts >/dev/null; \
	if [ -n "$$alerts" ] && [ -d /run/systemd/system ]; then systemctl disable --now prometheus-alertmanager; fi

venv: $(STAMP)

$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Esper needs Python 3.11 or newer; make PYTHON=python3.12 names another one")'
	@echo "Setting up $(VENV) (once): torch 2.13.0 and about 90 small packages."
	@echo "  Download: about 0.3 GB with a CPU build of torch, about 3 GB with the CUDA build that PyPI gives on Linux."
	@$(if $(TORCH_INDEX),echo "  Extra index: $(TORCH_INDEX)",echo "  For the CPU build: make $(firstword $(MAKECMDGOALS)) TORCH_INDEX=URL of an index that has it.")
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements-dev.txt
	@touch $@

clean: ## remove .venv and what tools left behind
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
