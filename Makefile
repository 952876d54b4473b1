# Each target needs Python >= 3.11, make and a package index; everything else goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test quick lint types bench microbench guard clean

run: $(VENV)/.run
	@exec $(BIN)/fairlead demo

# The end-to-end tests mostly wait, so more of them than cores run side by side.
JOBS ?= 3

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# The part of the suite without processes or a registry: seconds, for the inner loop.
quick: $(VENV)/.dev
	$(BIN)/python -m pytest tests/arch tests/unit tests/contract tests/property tests/wire

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m bench

# What single decisions cost; WHAT=-k=picks for some of them.
microbench: $(VENV)/.dev
	$(BIN)/python -m pytest bench/micro --benchmark-columns=min,median,ops,rounds \
		--benchmark-sort=name --benchmark-group-by=group $(WHAT)

# Has a request become dearer in the data plane? Half a minute; bench/guard.json has the figures.
guard: $(VENV)/.dev
	$(BIN)/python -m bench guard

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a second call start at once; a changed dependency list installs again.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.run
