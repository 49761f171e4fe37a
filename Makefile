# Every target sets up what it needs (tools/set_up.py); a second run starts at once.
#   make demo    the whole loop: misbehave, record, unlearn, swap, prove          make test    set-up and all tests
#   make build   set-up only                                                     make check   ruff and mypy
#   make clean   removes everything that was installed or built here
# DEMO="--scenario binding" passes arguments to the demo, TESTS="test/policy -k codec" to pytest.

SHELL := /bin/bash
.DEFAULT_GOAL := build
.PHONY: build packages demo test check format clean

SET_UP := python="$$(tools/find_python.sh)" && "$$python" tools/set_up.py
RUN := . ./activate.sh &&

build:
	@$(SET_UP)

packages:
	@$(SET_UP) --until packages

demo: build
	@$(RUN) exec vlaforget demo $(DEMO)

test: build
	@$(RUN) exec python -m pytest $(TESTS)

check: packages
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy vlaforget_ros tools

format: packages
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

clean:
	rm -rf .venv build install log .set_up.lock *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
