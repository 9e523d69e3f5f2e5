PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check bench claims docs clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/art-ext harden recipes/digits/pc_lc_pgd_at.yaml

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: install
	$(BIN)/python -m benchmarks

claims: install
	$(BIN)/python -m benchmarks.claims

docs: install
	$(BIN)/python -m art_ext.testing docs/combinations.md pgd_at

clean:
	rm -rf .venv build dist *.egg-info
