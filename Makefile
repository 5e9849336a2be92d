PYTHON ?= python3
# What is installed and tested: the working tree, or a built wheel (`make test PACKAGE=dist/x.whl`).
PACKAGE ?= -e .
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint audit fuzz clean

demo: .venv/demo.stamp
	$(BIN)/semcache demo

test: lint
	$(BIN)/pytest

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
