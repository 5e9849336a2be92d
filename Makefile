PYTHON ?= python3
# What is installed and tested: the working tree, or a built wheel (`make test PACKAGE=dist/x.whl`).
PACKAGE ?= -e .
BIN := .venv/bin
# Several processes of one thread each: threads of their own would fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow coverage postgres lint audit fuzz soak clean

demo: .venv/demo.stamp
	$(BIN)/semcache demo

# Lint and the fast tests: minutes, and enough to trust a change.
# `make test HYPOTHESIS_PROFILE=nightly` tries 300 examples of each property in place of 25.
test: lint
	$(PYTEST) -m "not slow"

# Child processes, kills, servers, state machines, training, the benchmarks' own tests.
# Without PostgreSQL the tests that need it are skipped.
test-slow: .venv/test.stamp postgres
	$(PYTEST) -m slow

# All tests, with the lines and branches that they reach; figures also in coverage.json.
coverage: .venv/test.stamp postgres
	$(PYTEST) --cov --cov-report term:skip-covered --cov-report json

# Installs Debian's package if there is none and the user is root.
postgres:
	@command -v initdb > /dev/null || ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || \
		{ test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
		  timeout 180 apt-get -qq update && \
		  timeout 180 apt-get -qq install -y postgresql > /dev/null; } || \
		echo "PostgreSQL is missing and cannot be installed from here: its tests are skipped"

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tells of known vulnerabilities, and fails for none: see the script. In an environment of its own,
# so that what pip-audit needs is not audited, and not tested with.
audit: .venv/test.stamp
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit || true
	$(BIN)/python scripts/audit.py .venv/audit/bin/pip-audit \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

fuzz: .venv/test.stamp
	$(BIN)/python scripts/fuzz.py

# For ten minutes eight processes ask and store on one path; results in benchmarks/results.
soak: .venv/demo.stamp
	$(BIN)/python benchmarks/soak.py --minutes 10

clean:
	rm -rf .venv dist

.venv/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(PACKAGE)"[langchain]"
	touch $@

# pip 25.1 is the first that reads [dependency-groups]
.venv/test.stamp: .venv/demo.stamp
	$(PIP) "pip>=25.1"
	$(PIP) --group dev $(PACKAGE)"[all]"
	touch $@
