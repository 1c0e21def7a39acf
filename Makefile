# make predict [ARGS=photo.jpg]     environment, then predict5.py on photographs
# make train [ARGS="--data DIR"]    environment, then train.py
# make explore [ARGS="--run NAME"]  environment, then the web page of explore.py
# make test                         environment, then linter and tests

PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # else every process compiles all of torch's files anew, which takes 15 s

.PHONY: predict train explore test

predict: .venv/installed
	$(BIN)/python predict5.py $(or $(ARGS),data/examples)

train: .venv/installed
	$(BIN)/python train.py $(ARGS)

explore: .venv/installed
	$(BIN)/python explore.py $(ARGS)

test: .venv/installed-dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9

.venv/installed: requirements.lock .venv/bin/uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements.lock
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/uv pip install --python $(BIN)/python --requirement requirements-dev.txt
	@touch $@
