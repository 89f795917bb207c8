# make demo   install into .venv and run the main job over samples/
# make test   install what the tests need and run all of them
# make check  format, lint and types only
PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip --disable-pip-version-check install -q -c constraints/cpu.txt

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/pagemill run samples out/demo || [ $$? -eq 3 ]  # 3: finished, and some pages failed
	$(BIN)/pagemill show out/demo

test: check
	$(BIN)/pytest

check: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints/cpu.txt
	@echo "Installing into .venv: a minute or two, longer where pip brings torch with CUDA."
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[transformers]'
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) -e '.[transformers,test]'
	touch $@

clean:
	rm -rf .venv out
