# Everything runs in .venv, which is made on first use from PYTHON and needs a package index only then.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin

.PHONY: demo test lint lowest olive tables speed fidelity search finetune clean

demo: $(VENV)/run  ## compress the thesis network, print the table, write build/
	mkdir -p build
	$(BIN)/python models/clips.py build/calibration.npz --count 16
	$(BIN)/onnx-tucker models/strokes.onnx build/strokes.onnx --ranks vbmf --data build/calibration.npz \
		--no-cache --plan-out build/plan.json --report build/report.json --report build/report.md --overwrite

test: $(VENV)/dev lint  ## all that CI runs
	$(BIN)/python -m pytest --numprocesses auto --maxschedchunk 1

lint: $(VENV)/dev  ## style, types, and which module may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lowest:  ## the tests with the oldest versions that pyproject.toml admits
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable .
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python hypothesis ml-dtypes pytest
	.venv-lowest/bin/python -m pytest -m "not slow"

olive:  ## the tests of the pass for Olive, in an environment of their own, as that takes minutes to install
	$(PYTHON) -m venv --clear .venv-olive
	.venv-olive/bin/python -m pip install --quiet uv
	.venv-olive/bin/uv pip install --quiet --python .venv-olive/bin/python --editable '.[olive]' hypothesis ml-dtypes pytest
	.venv-olive/bin/python -m pytest tests/extras/test_olive.py

tables: demo  ## measure the tables of README.md and docs/ and put them there
	$(BIN)/python benchmarks/thesis_table.py --out build/thesis_table.md
	$(BIN)/python benchmarks/strokes_accuracy.py --out build/accuracy.md
	$(BIN)/python benchmarks/large_model.py --out build/large_model.md
	$(BIN)/python benchmarks/update_docs.py README.md docs/thesis.md docs/models.md

speed: $(VENV)/bench  ## measure docs/speed.md; REAL=FOLDER adds models
	mkdir -p build
	$(BIN)/python benchmarks/speed.py $(if $(REAL),--real $(REAL)) --out build/speed.md --plot docs/speed.svg
	$(BIN)/python benchmarks/update_docs.py docs/speed.md

fidelity: $(VENV)/run  ## measure docs/fidelity.md; REAL=FOLDER adds models
	mkdir -p build
	$(BIN)/python benchmarks/fidelity.py $(if $(REAL),--real $(REAL)) --rows build/fidelity.json \
		--out build/fidelity.md --plot docs/fidelity.svg
	$(BIN)/python benchmarks/update_docs.py docs/fidelity.md

search: $(VENV)/bench  ## measure docs/auto.md; REAL=FOLDER adds models
	mkdir -p build
	$(BIN)/python benchmarks/search.py $(if $(REAL),--real $(REAL)) --threads 1 --rows build/search.json --out build/search.md
	$(BIN)/python benchmarks/update_docs.py docs/auto.md

finetune: $(VENV)/dev  ## measure docs/finetune.md; REAL=FOLDER adds models
	mkdir -p build
	$(BIN)/python benchmarks/finetune.py $(if $(REAL),--real $(REAL)) --threads 1 --clips 1000 --fitted 64 \
		--rows build/finetune.json --out build/finetune.md
	$(BIN)/python benchmarks/update_docs.py docs/finetune.md

clean:
	rm -rf .venv .venv-lowest .venv-olive build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/bench: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@ $(VENV)/run

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/run
