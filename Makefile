PYTHON ?= python3
# What is installed and tested: the working tree, or a built wheel (`make test PACKAGE=dist/x.whl`).
PACKAGE ?= -e .
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint soak clean

demo: .venv/demo.stamp
	$(BIN)/semcache demo

test: lint
	$(BIN)/pytest

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
