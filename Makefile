# The one way to do each thing, for people and for CI. On a machine with nothing but Debian and make, `make demo` and
# `make test` install what they need (scripts/machine.sh says when and what).

VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input
WORKERS ?= 2
PYTEST_ARGS ?=
DIST ?= dist
# Archives are built in an environment of their own: what is in it gets into them.
DIST_VENV ?= build/dist-venv
DIST_BIN = $(DIST_VENV)/bin
# DIST_ARGS='--glibc 2.28' to fail when the archive would need a newer one
DIST_ARGS ?=
RANGES_TESTS ?=

.PHONY: help venv venv-test test-tools demo test check lint types pytest bench e2e dist manifest ranges bounds twins stock image generated clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## a virtual environment with the program in it

$(VENV)/.installed: setup.cfg pyproject.toml
	@[ -x $(BIN)/python ] || scripts/machine.sh venv $(VENV)
	$(PIP) install --quiet -e .
	@touch $@

venv-test: $(VENV)/.installed-test

$(VENV)/.installed-test: setup.cfg pyproject.toml
	@[ -x $(BIN)/python ] || scripts/machine.sh venv $(VENV)
	$(PIP) install --quiet -e '.[test]'
	@touch $(VENV)/.installed $@

demo: venv ## the main job, on a cluster that comes with the program
	@status=0; $(BIN)/kubectl-svcroute demo || status=$$?; \
	case $$status in 1) echo "(exit status 1: there are findings, as there should be)" >&2 ;; *) exit $$status ;; esac

test: test-tools check ## everything: install what the tests need, then lint, types and tests

test-tools:
	@scripts/machine.sh test-tools

check: lint types pytest ## lint, types and tests, with what is installed

lint: venv-test ## ruff
	$(BIN)/ruff check .

types: venv-test ## mypy
	$(BIN)/mypy

pytest: venv-test ## the tests; PYTEST_ARGS='-k walk' for some of them
	@mkdir -p build
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -ra --junitxml=build/tests.xml $(PYTEST_ARGS)

bench: venv-test ## the benchmarks
	@found=$$(grep -ls __main__ bench/*.py) || { echo "no benchmark here yet"; exit 0; }; \
	for file in $$found; do echo "== $$file"; $(BIN)/python $$file || exit; done

MODE ?= iptables
KUBERNETES ?= v1.34.0
e2e: venv ## against a real cluster that kind makes, healthy and hurt; MODE=nftables KUBERNETES=v1.33.4
	scripts/e2e.sh $(MODE) $(KUBERNETES) $(BIN)/kubectl-svcroute

generated: venv-test ## make again what scripts make: the demo, the index of codes, the README's output
	$(BIN)/python scripts/make_demo.py
	$(BIN)/python scripts/make_code_index.py
	$(BIN)/python scripts/make_readme.py
	$(BIN)/python scripts/make_krew_template.py

dist: $(DIST_VENV)/.installed ## wheel, source distribution and krew's archive for this platform, in dist/
	@scripts/machine.sh dist-tools
	$(DIST_BIN)/python scripts/make_dist.py $(DIST_ARGS) $(DIST)
	@$(MAKE) --no-print-directory manifest

manifest: $(DIST_VENV)/.installed ## krew's manifest and the checksums, from the archives that are in dist/
	$(DIST_BIN)/python scripts/make_manifest.py $(DIST)
	$(DIST_BIN)/python scripts/krew_rules.py $(DIST)/svcroute.yaml $(DIST)/kubectl-svcroute_v*.tar.gz

ranges: $(DIST_VENV)/.installed ## the lowest and the highest versions of every dependency, on every Python that is here
	rm -rf build/ranges-wheel
	$(DIST_BIN)/python -m build --no-isolation --wheel --outdir build/ranges-wheel .
	$(DIST_BIN)/python scripts/try_ranges.py build/ranges-wheel/*.whl $(RANGES_TESTS)

SEEDS ?= 20000
bounds: venv-test ## walks with and without their shortcuts, on SEEDS drawn rule sets
	SVCROUTE_BOUNDS=$(SEEDS) $(BIN)/python -m pytest -q -n $(WORKERS) tests/observe/test_bounds.py

TWINS ?= 2000
twins: venv-test ## audits with and without shortcuts, on TWINS drawn edits of each kind (hours)
	SVCROUTE_TWINS=$(TWINS) $(BIN)/python -m pytest -q -n $(WORKERS) tests/test_twins.py tests/test_shortcut_edits.py

SUITES ?= bookworm trixie
stock: ## demo, dist and test in a fresh Debian 12 and 13 with git, make and certificates (half an hour; SUITES=trixie)
	@for suite in $(SUITES); do scripts/stock.sh try $$suite demo dist test || exit; done

image: ## build the image on a fresh Debian, and start it (needs root and buildah)
	scripts/stock.sh image

$(DIST_VENV)/.installed: scripts/dist-requirements.txt
	@[ -x $(DIST_BIN)/python ] || scripts/machine.sh venv $(DIST_VENV)
	$(DIST_BIN)/python -m pip --disable-pip-version-check --no-input install --quiet -r $<
	@touch $@

clean: ## remove what was built and cached, and leave the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
