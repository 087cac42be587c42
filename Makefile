# One command a chore; CONTRIBUTING.md tells more.
PYTHON ?= python3
export PYTHON
# On Debian nginx and ip lie in /usr/sbin, which is not always on PATH.
export PATH := $(PATH):/usr/sbin:/sbin
# The tests start thousands of nodes: each would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: screenshots demo disasters quick test test-store test-pythons test-docker simulate bench release docs lint dev clean

demo: .venv/made            ## one node, then three: a few tasks, what became of them
	.venv/bin/spoolnode demo

quick: .venv/dev            ## for each change: lint, types and the quick tests of the checkout, in a minute or two
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest -q -m 'not slow' -n 4 --dist worksteal tests/protocol tests/node tests/test_*.py $(ARGS)

test: .venv/tox             ## lint, types, documentation and tests, as CI runs them
	@echo 'Lint, types, the documentation, and all tests but those of docker-compose.yml. Twelve to fifteen minutes on two quiet cores.'
	tests/install.sh tests
ifeq ($(ARGS),)
	.venv/bin/tox run-parallel -p 3 --parallel-live -e lint,types,docs,tests
else
	.venv/bin/tox run $(ARGS)
endif

PYTHONS ?= py312,py313
test-pythons: .venv/tox     ## the quick tests with other Pythons, those that are installed
	.venv/bin/tox run --skip-missing-interpreters=true -e $(PYTHONS) $(ARGS)

test-store: .venv/tox       ## the tests of the API and of uWSGI's ways once more, with a store in PostgreSQL behind each node
	tests/install.sh tests
	.venv/bin/tox run -e store $(ARGS)

test-docker: .venv/tox      ## the tests of docker-compose.yml on a Docker engine of their own; needs root
	@echo 'Tests of docker-compose.yml: a Docker engine of their own, in a network namespace. About two minutes.'
	tests/install.sh docker
	.venv/bin/tox run -e docker $(ARGS)

docs: .venv/tox             ## the documentation as a site, in docs/_build/html; ARGS='-- linkcheck': tries the links to elsewhere
	.venv/bin/tox run -e docs $(ARGS)
	@echo 'Open docs/_build/html/index.html'

screenshots: .venv/dev      ## the pictures of the page in docs/images, of a cluster that it starts
	PYTHONPATH=src:tests .venv/bin/python tests/page/screenshots.py $(ARGS)

lint: .venv/tox
	.venv/bin/tox run -e lint,types

SEED ?= 0-2000
simulate: .venv/dev         ## SEED=7: the story of one seed of the simulation, step by step; SEED=0-2000: many
	PYTHONPATH=src:tests .venv/bin/python -m simulation $(SEED) $(ARGS)

disasters: .venv/dev        ## what `make test` leaves to chance, in many more rounds: simulated faults, kill -9 of nodes and servers
	PYTHONPATH=src:tests .venv/bin/python -m simulation 0-2000
	PYTHONPATH=src:tests .venv/bin/python -m simulation 0-2000 --of store
	PYTHONPATH=src:tests .venv/bin/python -m simulation 0-200 --of timers
	PYTEST_CRASH_KILLS=105 PYTEST_CLUSTER_KILLS=26 PYTEST_STORE_ROUNDS=50 .venv/bin/pytest -q -n 4 \
		tests/system/test_crash.py tests/cluster/test_cluster_crash.py tests/store/test_store_storm.py $(ARGS)

bench: dev .venv/bench      ## make bench ARGS=--help
	.venv/bin/python bench/run.py $(ARGS)

release: .venv/dev          ## VERSION=0.3.0: sets the version, builds, checks, commits and tags; publishes nothing
	@.venv/bin/python tests/release.py '$(VERSION)'

dev: .venv/dev              ## everything to work on the code: .venv/bin/pytest, mypy, ruff, spoolnode

clean:
	rm -rf .venv .tox dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The package itself is installed in editable form: a change of the code needs no second install.
.venv/made: pyproject.toml
	@echo 'Making .venv with spoolnode and its dependencies from PyPI. Half a minute, only the first time.'
	tests/install.sh venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -U pip
	.venv/bin/pip install -q -e .
	touch $@

.venv/tox: .venv/made
	.venv/bin/pip install -q 'tox>=4.22'
	touch $@

# What the bench compares with: Debian's servers, and dramatiq and Procrastinate in an environment of their own.
.venv/bench: .venv/made
	tests/install.sh bench
	$(PYTHON) -m venv $@
	$@/bin/pip install -q 'dramatiq[redis]>=2.2' 'procrastinate>=3.10' 'psycopg[binary]>=3.2' || { rm -rf $@; exit 1; }

.venv/dev: .venv/made
	tests/install.sh tests
	.venv/bin/pip install -q -e '.[tls]' --group dev
	touch $@
