SCALE ?= small
PYTHON ?= python3
BIN = .venv/bin
# GPUS=8 starts that many processes with torchrun.
RUN = $(if $(GPUS),$(BIN)/torchrun --standalone --nproc-per-node $(GPUS),$(BIN)/python)
FLAGS = $(if $(WANDB),--wandb) $(DRY_RUN) $(if $(CONTROLS),--controls) $(if $(BUDGET),--budget) \
	$(if $(MODELS),--models $(MODELS)) $(if $(DATASETS),--datasets $(DATASETS))
# The demo's results are its user's own; those of the other scales are the project's.
RESULTS = $(if $(filter demo,$(SCALE)),results/demo,results)
DRY_RUN = $(if $(DRY),--dry)
TABLE = $(RUN) -m scripts.table $@ --scale $(SCALE) --results $(RESULTS) $(FLAGS)

# Its networks are so small that a second thread would only get in the way.
ifeq ($(SCALE),demo)
export OMP_NUM_THREADS ?= 1
endif

.PHONY: help setup demo test lint predictor evidence policies unconverged thresholds bench report smoke readme
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9% ]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "SCALE=demo|small|medium|paper  GPUS=8  MODELS='resnet50 vgg11'  DATASETS=cifar10  CONTROLS=1  BUDGET=1  DRY=1  WANDB=1"

setup: .venv/ready  ## makes .venv and installs the project with all that it needs

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[experiments,dev]'
	touch $@

demo: setup  ## the paper's main comparison on small networks, in minutes, without any download
	@$(MAKE) --no-print-directory table2 SCALE=demo

test: setup  ## the test suite
	$(BIN)/python -m pytest

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

predictor: setup  ## records trainings and trains the predictor on them
	$(BIN)/python -m scripts.predictor --scale $(SCALE) --results $(RESULTS) $(DRY_RUN) \
		--output $(if $(filter small,$(SCALE)),smartfrz/predictor/pretrained,$(RESULTS)/predictor-$(SCALE))

evidence: setup  ## who tells best which layers are done, in networks of a family new to them
	$(BIN)/python -m scripts.evidence --scale $(SCALE) --results $(RESULTS) $(DRY_RUN)

table%: setup  ## a table of the paper, for instance table2: runs what is missing, draws it
	$(TABLE)

policies: setup  ## a table of our own: SmartFRZ beside a rule without learning and the oracle
	$(TABLE)

unconverged: setup  ## the same where training ends long before it has converged
	$(TABLE)

thresholds: setup  ## a table of our own: how far to go, for SmartFRZ and the rule, on CIFAR-100
	$(TABLE)

fig3 fig4 fig5 attention overhead: setup
	$(BIN)/python -m scripts.figure $@ --scale $(SCALE) --results $(RESULTS) $(DRY_RUN)

fig3:  ## are the 1,024 sampled weights like all of a layer's? Their gradients (Figure 3)
fig4:  ## when each layer's CKA to the final model stabilises (Figure 4)
fig5:  ## memory as layers freeze, and when they do (Figure 5)
attention:  ## what the predictor attends to, in the recorded runs
overhead:  ## memory, FLOPs and time of SmartFRZ itself (Appendix C)

bench-%: setup
	$(BIN)/python -m benchmarks.$*

bench: $(addprefix bench-,step_time saved_activations peak_memory bookkeeping communication whole_runs compiled_steps)  ## what freezing costs and saves, measured here

report: setup  ## one page of all results, to open in a browser: results/report.html
	$(BIN)/python -m scripts.report --scale $(SCALE) --results $(RESULTS)

SMOKE = $(addprefix table,1 2 3 4 5 6 7 8 9) policies predictor evidence attention \
	fig3 fig4 fig5 overhead report
smoke: setup  ## every target once, at the smallest scale
	@set -e; for target in $(SMOKE); do $(MAKE) --no-print-directory $$target SCALE=demo; done

readme: setup  ## puts the result tables into the README
	$(BIN)/python -m scripts.readme
