# Each target needs Python >= 3.11, make and a package index; everything else goes into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test drills quick lint types bench microbench guard compiled test-compiled guard-compiled docs site site-version simulate picture wheels release clean

# On the compiled data plane, if `make compiled` was called since the last change of the sources.
run: $(VENV)/.run
	@if [ -e $(COMPILED)/.stamp ] && [ -z "$$(find proxy balancers setup.py -name '*.[cp]*' \
		-newer $(COMPILED)/.stamp -print -quit)" ]; then export $(WITH_COMPILED); fi; \
		exec $(BIN)/fairlead demo

# The end-to-end tests mostly wait, so more of them than cores run side by side.
JOBS ?= 3

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m "not drill"

# What does its worst for many seconds: fifty reloads of a kind, upgrades in a row, instances and
# registries that fail, renewals, scanners; and all tests of what is said on the wire once more, over TLS.
drills: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m drill

# The part of the suite without processes or a registry: seconds, for the inner loop.
quick: $(VENV)/.dev
	FAIRLEAD_HYPOTHESIS=glance $(BIN)/python -m pytest --numprocesses auto --dist worksteal \
		-m "not drill" tests/arch tests/unit tests/contract tests/property tests/wire

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.dev
	-@$(MAKE) --no-print-directory compiled
	$(BIN)/python -m bench
	$(BIN)/python -m bench mesh
	$(BIN)/python -m bench tls-memory
	$(BIN)/python -m bench http2-memory
	-$(BIN)/python -m bench features

# The data plane as extension modules, in a directory of its own. Needs a C compiler and Python.h.
COMPILED := build/compiled
compiled: $(COMPILED)/.stamp
$(COMPILED)/.stamp: $(shell find proxy balancers -name '*.py' -o -name '*.c') setup.py $(VENV)/.dev
	rm -rf $(COMPILED)
	FAIRLEAD_COMPILED=1 $(BIN)/python setup.py --quiet build --build-lib $(COMPILED)
	@touch $@

# The tests of the data plane once more, on what was compiled. From Python 3.12 on the code that
# mypyc makes for an `await` that is cancelled is deprecated (mypyc/mypyc#1214): as an error, like
# every other warning here, it would take the place of the cancellation.
WITH_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR)
THROWN := 'ignore:the (type, exc, tb) signature of throw:DeprecationWarning'
test-compiled: $(COMPILED)/.stamp
	$(WITH_COMPILED) $(BIN)/python -c \
		"import proxy.engine.exchange as m; assert m.__file__.endswith('.so'), m.__file__"
	$(WITH_COMPILED) $(BIN)/python -m pytest --override-ini pythonpath= -W $(THROWN) \
		--numprocesses $(JOBS) --dist loadfile tests/unit tests/property tests/wire $(COMPILED_E2E)
COMPILED_E2E := $(addprefix tests/e2e/test_, forwarding.py streaming.py tunnels.py retries.py \
	stopping.py access_log.py)

guard-compiled: $(COMPILED)/.stamp
	$(BIN)/python -m bench guard --compiled
	$(BIN)/python -m bench instructions --compiled

# What single decisions cost; WHAT=-k=picks for some of them.
microbench: $(VENV)/.dev
	$(BIN)/python -m pytest bench/micro --benchmark-columns=min,median,ops,rounds \
		--benchmark-sort=name --benchmark-group-by=group $(WHAT)

# Has a request become dearer in the data plane? A minute; bench/guard.json has the figures, and
# bench/instructions.json those that a series of changes is held against, where there is valgrind.
guard: $(VENV)/.dev
	$(BIN)/python -m bench guard
	$(BIN)/python -m bench instructions

# The pictures of docs/balancers.md.
simulate: $(VENV)/.dev
	$(BIN)/python -m bench.simulate

# The manual page and the tables of docs/errors.md, docs/metrics.md and docs/configuration.md, from what the code declares.
docs: $(VENV)/.dev $(VENV)/.docs
	$(BIN)/python -m proxy.errors
	$(BIN)/python -m proxy.control.metrics
	$(BIN)/python -m proxy.manual
	$(BIN)/python -m proxy.settings.document docs/configuration.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The pages as a site, in build/site: whoever has a web server can publish it. A link to nowhere fails it
# (--quiet would let it pass).
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The site of this version beside those of others, which readers choose from: a commit on the branch
# `site`, for whoever publishes to push. `latest` leads to it.
site-version: $(VENV)/.docs
	export PATH=$(abspath $(BIN)):$$PATH NO_MKDOCS_2_WARNING=1; \
		version=$$(python -c "import proxy; print(proxy.__version__.rpartition('.')[0])") && \
		mike deploy --branch site --alias-type redirect --update-aliases $$version latest && \
		mike set-default --branch site latest

# The picture of the first page, which moves: a run of the demo.
picture: $(VENV)/.run
	$(BIN)/python -m release.picture

# An sdist and a compiled wheel for each CPython that is found, each tried; release/wheels.py says how.
wheels: $(VENV)/.release
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m release.wheels

# Is dist/ fit to be published? Publishing, signing and tagging are the maintainer's.
release: $(VENV)/.release
	$(BIN)/python -m release.checks

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a second call start at once; a changed dependency list installs again.
$(VENV)/.run: pyproject.toml constraints.txt setup.py proxy/_latency.c proxy/http/_scanner.c | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt setup.py proxy/_latency.c proxy/http/_scanner.c | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.release: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[release,test]'
	@touch $@
