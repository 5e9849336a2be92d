PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/demo.stamp
	$(BIN)/semcache demo

test: .venv/test.stamp lint
	$(BIN)/pytest

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv dist build

.venv/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[langchain]'
	touch $@

# pip 25.1 is the first that reads [dependency-groups]
.venv/test.stamp: .venv/demo.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group dev -e '.[all]'
	touch $@
