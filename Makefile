PYTHON ?= python3
# What is installed and tested: the working tree, or a built wheel (`make test PACKAGE=dist/x.whl`).
PACKAGE ?= -e .
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

demo: .venv/demo.stamp
	$(BIN)/semcache demo

# Several processes of one thread each: threads of their own would fight for the same cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
