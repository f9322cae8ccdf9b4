# Two commands do all the set-up: `make demo` and `make test`.
# `make PYTHON=python3.12 …` takes another than the newest that fits.
PYTHON ?= newest
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA GPU: the address of PyTorch's wheels for the CPU, as PyTorch's "Get Started" page gives it.
TORCH_INDEX ?=
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test long check install pictures audits failure adversary installations newest pythons clean

demo: $(VENV)/.demo
	$(BIN)/tidegate demo

test: $(VENV)/.test
	scripts/test

# What `make test` leaves out, and names at its end: what repeats at length what a shorter test shows.
long: $(VENV)/.test
	scripts/test -m long

check: $(VENV)/.test
	scripts/check

install: $(VENV)/.demo

# One that is there stays of the Python that made it.
$(BIN)/python:
	@python="$$(scripts/python "$(PYTHON)")" && echo "Making $(VENV) with $$python ($$("$$python" -V))" && "$$python" -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes, in which pip says nothing"

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[all]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[all,dev,simulation]"
	touch $(VENV)/.demo $@

pictures: $(VENV)/.test
	scripts/pictures

# Two hundred audits in which nothing is wrong, and the eight faults: 3 minutes.
audits: $(VENV)/.test
	TIDEGATE_CLEAN_AUDITS=200 $(BIN)/pytest tests/statistical/test_audit.py -n auto --timeout 900

# Fifty runs with processes killed at random, cuts of up to five minutes, full disks, wrong replies: three
# federations beside each other, 23 minutes.
failure: $(VENV)/.test
	TIDEGATE_FAILURE=long $(BIN)/pytest tests/failure -n 3 --dist loadgroup --no-loadscope-reorder -v --durations=10

# Attacks on a site and on the server by hand-made messages, 10,000 generated ones of each kind, 100,000
# changed ones, 100,000 changed requests at the gateway, and 2,000 of each kind and role at the API. The table at the end says how many of each were tried.
adversary: $(VENV)/.test
	TIDEGATE_ADVERSARY=long $(BIN)/pytest tests/adversary -n auto --dist worksteal --timeout 3600

# Each extra by pip into an environment of its own, and what it is for tried there: some gigabytes, many minutes
# of pip. `make installations EXTRAS=scientist` for one.
installations: $(VENV)/.test
	$(BIN)/python scripts/installations.py $(EXTRAS)

# The adapters' tests against the newest releases of what they adapt, in an environment of its own (2 GB): before
# a security update. `make newest LIBRARIES=flwr` for one.
newest:
	python="$$(scripts/python "$(PYTHON)")" && "$$python" scripts/newest.py $(LIBRARIES)

# Installs for each Python from 3.11 to 3.13 that is found, and runs the quick tests with it: 5 to 10 GB with
# PyTorch for GPUs, 2 for the CPU.
pythons:
	python="$$(scripts/python "$(PYTHON)")" && "$$python" scripts/pythons.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

clean:
	rm -rf $(VENV) .venv-newest .venv-python3.* demo .tidegate
