# Everything a fresh machine needs is Python 3.11 or newer and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYSTEMS := ray-serve litellm-proxy vllm llama-cpp openllm redis processes
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-all soak fuzz coverage mutants matrix test-servers test-peers lint docs picture package audit clean

help:
	@echo "make demo   watch a chain answer while its servers fail (no network, no key)"
	@echo "make test   run the tests a change needs, seven to eight minutes"
	@echo "make test-all"
	@echo "            run every test, half an hour; 10,000 histories each of a fleet and of a model are half"
	@echo "make soak   play ten times as many histories, and make 100,000 calls that may leave nothing behind, for hours;"
	@echo "            TIMES=5 plays five times as many as test-all"
	@echo "make fuzz   spoilt input of every kind for some hours; TIMES=5 tries five times as many as test-all, SECONDS=60 of"
	@echo "            each target that is guided by coverage"
	@echo "make coverage"
	@echo "            which lines and branches the tests of make test run, and those that start servers; some fifteen minutes"
	@echo "make mutants FILES=\"engine/policy.py\""
	@echo "            would a test notice if a line of these were wrong? BASE=origin/main: of what differs; MINUTES=20 at most"
	@echo "make matrix SESSIONS=\"lowest_allowed\""
	@echo "            the tests on other Pythons and versions; without SESSIONS all of noxfile.py"
	@echo "make test-servers SYSTEMS=\"ray-serve vllm\""
	@echo "            run the same chain on real serving systems, by default on all of: $(SYSTEMS)"
	@echo "make test-peers"
	@echo "            run LangChain's, LangGraph's and langchain-litellm's own tests with our model in place of theirs"
	@echo "make lint   style, types, import contracts"
	@echo "make docs   write anew what docs/ has from the code, and build the site into site/"
	@echo "make picture"
	@echo "            record docs/demo.svg anew"
	@echo "make package"
	@echo "            build what goes to PyPI into dist/, and check what its page shows"
	@echo "make audit  look for known holes in what is installed, and in the workflows"

demo: $(VENV)/.installed
	@$(BIN)/llm-fallback demo

# Two processes, also where there are more cores: some tests measure time.
PYTEST := $(BIN)/python -m pytest -n 2 --dist=worksteal

test: $(VENV)/.installed-test
	@echo "This takes seven to eight minutes on two cores. The rest, such as tests that start whole interpreters: make test-all"
	@$(PYTEST) -m "not servers and not slow" --hypothesis-profile=fast

test-all: $(VENV)/.installed-test
	@echo "This takes half an hour on two cores."
	@$(PYTEST)

# 10,000 histories of each kind, times so many.
soak: $(VENV)/.installed-test
	SOAK=$(or $(TIMES),10) $(PYTEST) -m "not servers" tests/histories
	$(BIN)/python -m benchmarks.long_run --calls 100000

# Hours: 100 times as many as in test-all, then each target of tests/fuzz/guided.py for ten minutes.
fuzz: $(VENV)/.installed-test
	FUZZ=$(or $(TIMES),100) $(PYTEST) -m "not servers" tests/fuzz
	$(PIP) --quiet --group fuzz
	@for target in openai anthropic gemini bedrock cohere ollama errors; do \
		$(BIN)/python -m tests.fuzz.guided $$target $(or $(SECONDS),600) || exit 1; \
	done

# The server of the command runs in processes, which the slow tests of tests/serving start.
COUNTED := --cov --cov-report= --cov-fail-under=0

coverage: $(VENV)/.installed-test
	$(PIP) --quiet --group coverage
	$(PYTEST) -m "not servers and not slow" --hypothesis-profile=fast $(COUNTED)
	$(PYTEST) -m slow tests/serving $(COUNTED) --cov-append
	$(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o $(VENV)/coverage.json
	@$(BIN)/python -c 'import json; totals = json.load(open("$(VENV)/coverage.json"))["totals"]; \
		share = 100 * totals["covered_branches"] / totals["num_branches"]; \
		print(f"{share:.1f} % of branches alone; 97 % are asked for"); raise SystemExit(share < 97)'

mutants: $(VENV)/.installed-test
	$(PIP) --quiet --group mutants
	$(BIN)/python tests/mutation/run.py $(if $(BASE),--base $(BASE)) $(if $(MINUTES),--minutes $(MINUTES)) $(FILES)

matrix: $(VENV)/.pip
	$(PIP) --quiet --group matrix
	$(BIN)/nox $(if $(SESSIONS),--session $(SESSIONS))

test-servers: $(VENV)/.installed-test
	$(BIN)/python tests/servers/install.py $(SYSTEMS)
	SYSTEMS="$(SYSTEMS)" $(BIN)/python -m pytest -m servers tests/servers

# In an environment of its own, .peers/env, with what their tests import.
test-peers: $(VENV)/.pip
	$(BIN)/python tests/peers/install.py
	$(BIN)/python tests/peers/run.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict --platform win32 --follow-imports skip --cache-dir /dev/null src/llm_fallback/_file_locks.py
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github

# Whatever is made from the code, then the site into site/, with every link of it checked.
docs: $(VENV)/.installed-test
	$(PIP) --quiet --group docs
	$(BIN)/python docs/generate_spec.py
	$(BIN)/python docs/generate_types.py
	$(BIN)/python docs/generate_module_list.py
	$(BIN)/python docs/generate_command.py
	$(BIN)/python docs/draw_pictures.py
	$(BIN)/python docs/draw_balancing.py
	$(BIN)/python -m tests.corpus.table
	$(BIN)/python docs/build_site.py

picture: $(VENV)/.installed
	$(BIN)/python docs/record_demo.py

package: $(VENV)/.pip
	$(PIP) --group package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Known holes come from PyPI, and actionlint from GitHub: last, so that all else is told where there is no way to it.
# Strict, as "nothing was found" must not mean that nothing could be looked up.
audit: $(VENV)/.installed
	$(PIP) --group audit
	$(BIN)/zizmor .github
	$(BIN)/pip freeze --exclude-editable > $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audited.txt
	$(PIP) --group actionlint
	$(BIN)/actionlint

clean:
	rm -rf dist site $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# `pip install --group` needs pip 25.1.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it as in: make PYTHON=python3.12 demo" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable . --group test
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable . --group dev
	@touch $(VENV)/.installed $(VENV)/.installed-test $@
