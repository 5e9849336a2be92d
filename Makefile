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

# Reports known vulnerabilities and never fails: an advisory has nothing to do with a change.
# pip-audit has an environment of its own, so that its dependencies are not audited.
audit: .venv/test.stamp
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit || true
	@packages=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	found=$$(timeout 300 .venv/audit/bin/pip-audit --path "$$packages" \
		--progress-spinner off --timeout 15 2>&1); code=$$?; \
	case "$$code:$$found" in \
		0:*|*"known vulnerabilit"*) echo "$$found" ;; \
		*) echo "audit SKIPPED, the advisories cannot be read: $$(echo "$$found" | tail -n 1)" ;; \
	esac

# Many more tampered inputs for each parser than the tests try.
fuzz: .venv/test.stamp
	FUZZ_EXAMPLES=10000 $(BIN)/pytest tests/security/test_fuzz.py

# For ten minutes eight processes ask and store on one path; results in benchmarks/results.
soak: .venv/demo.stamp
	$(BIN)/python benchmarks/run.py soak --minutes 10

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
