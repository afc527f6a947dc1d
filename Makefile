SCALE ?= small
PYTHON ?= python3
BIN = .venv/bin
# GPUS=8 starts eight processes with torchrun.
RUN = $(if $(GPUS),$(BIN)/torchrun --standalone --nproc-per-node $(GPUS),$(BIN)/python)
# LAUNCHER=slurm submits jobs that share the runs: JOBS=8 of them, with GPUS=1 each.
ifeq ($(LAUNCHER)$(DRY),slurm)
RUN = $(BIN)/python -m scripts.slurm $(if $(JOBS),--jobs $(JOBS)) $(if $(GPUS),--gpus $(GPUS)) \
	$(if $(HOURS),--hours $(HOURS)) $(if $(PARTITION),--partition $(PARTITION))
endif
FLAGS = $(if $(WANDB),--wandb) $(DRY_RUN) $(if $(CONTROLS),--controls) $(if $(BUDGET),--budget) \
	$(if $(FRESH),--fresh) $(if $(MIXED),--mixed) $(if $(REHEARSAL),--rehearsal) \
	$(if $(MODELS),--models $(MODELS)) $(if $(DATASETS),--datasets $(DATASETS)) \
	$(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS))
# Results of the demo scale and of rehearsals are not part of the repository.
RESULTS = results$(if $(REHEARSAL),/rehearsal)$(if $(filter demo,$(SCALE)),/demo)
DRY_RUN = $(if $(DRY),--dry)
TABLE = $(RUN) -m scripts.table $@ --scale $(SCALE) --results $(RESULTS) $(FLAGS)

# The demo's networks are too small to benefit from more than one thread.
ifeq ($(SCALE),demo)
export OMP_NUM_THREADS ?= 1
endif

.PHONY: help setup demo test lint predictor evidence counterfactual policies unconverged thresholds compute rates_images rates_text plans tune bench gpu gpu-table report figures-for-paper smoke readme docs
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9_% ]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "SCALE=demo|small|medium|paper  GPUS=8  LAUNCHER=slurm  JOBS=8  HOURS=24  PARTITION=gpu  MODELS='resnet50 vgg11'  DATASETS=cifar10  METHODS='full smartfrz'  SEEDS=0  CONTROLS=1  BUDGET=1  LABEL=contribution  DRY=1  FRESH=1  MIXED=1  REHEARSAL=1  WANDB=1"

setup: .venv/ready  ## create .venv and install the project with all dependencies

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[experiments,weights,dev,docs]'
	touch $@

demo: setup  ## Table 2 on small networks, in minutes and without downloads
	@$(MAKE) --no-print-directory table2 SCALE=demo

test: setup  ## run the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: setup  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

predictor: setup  ## record runs and train the predictor on them (LABEL=cka|contribution)
	$(BIN)/python -m scripts.predictor --scale $(SCALE) --results $(RESULTS) $(DRY_RUN) \
		$(if $(LABEL),--label $(LABEL)) \
		--output $(if $(filter small,$(SCALE)),smartfrz/predictor/pretrained,$(RESULTS)/predictor-$(SCALE))

evidence: setup  ## compare convergence predictors on unseen network families
	$(BIN)/python -m scripts.evidence --scale $(SCALE) --results $(RESULTS) $(DRY_RUN)

table%: setup  ## execute and draw a table of the paper, for example table2
	$(TABLE)

policies: setup  ## an additional table: SmartFRZ, a rule without learning, and the oracle
	$(TABLE)

unconverged: setup  ## the same comparison for runs that end long before convergence
	$(TABLE)

thresholds: setup  ## an additional table: thresholds of SmartFRZ and of the displacement rule
	$(TABLE)

compute: setup  ## methods and controls at equal compute: 90%, 75%, 58% and 45% of full training's
	$(TABLE)

rates_images: setup  ## learning rates of EfficientNet-Lite0 for the table compute
	$(TABLE)

rates_text: setup  ## learning rates of MiniLM for the table compute
	$(TABLE)

plans: setup  ## how far the front is best frozen from the start, on validation examples
	$(TABLE)

tune: setup  ## choose learning rates and the methods' own settings on validation examples
	$(BIN)/python -m scripts.tune --scale $(SCALE) --results $(RESULTS) $(DRY_RUN) \
		$(if $(MODELS),--models $(MODELS))

fig3 fig4 fig5 counterfactual attention overhead: setup
	$(BIN)/python -m scripts.figure $@ --scale $(SCALE) --results $(RESULTS) $(DRY_RUN)

fig3:  ## gradients of a layer's sampled weights and of all its weights (Figure 3)
fig4:  ## CKA of each layer to the final model over training (Figure 4)
fig5:  ## memory and frozen layers over training (Figure 5)
counterfactual:  ## what freezing a group of layers costs, and which label ranks the costs better
attention:  ## attention weights of the predictor on recorded runs
overhead:  ## memory, FLOPs and time of SmartFRZ itself (Appendix C)

bench-%: setup
	$(BIN)/python -m benchmarks.$*

bench: $(addprefix bench-,step_time saved_activations peak_memory bookkeeping communication whole_runs cached_features compiled_steps language_model)  ## measure the cost and the savings of freezing on this machine

GPU_MODELS = $(if $(DRY),vgg11,resnet50 mobilenet_v2 deit_tiny)
GPU_FLAGS = --repeats $(if $(DRY),1,5) --results $(if $(DRY),$(shell mktemp -d),$(RESULTS))
gpu: setup  ## tests and benchmarks on a GPU, about 12 minutes; DRY=1 tries them on any machine
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.captured_steps --models $(GPU_MODELS) $(GPU_FLAGS)
	$(BIN)/python -m benchmarks.step_time --models $(GPU_MODELS) $(GPU_FLAGS)
	$(BIN)/python -m benchmarks.peak_memory --models $(GPU_MODELS) $(GPU_FLAGS)
	$(BIN)/python -m benchmarks.bookkeeping $(GPU_FLAGS)
	$(BIN)/python -m benchmarks.compiled_steps --models $(if $(DRY),vgg11,deit_tiny) $(GPU_FLAGS)

gpu-table: setup  ## Table 2 at medium on a GPU, the most important cells first, for MINUTES=12
	$(BIN)/python -m scripts.gpu_table --results $(RESULTS) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(REHEARSAL),--rehearsal)

report: setup  ## write one page with all results: results/report.html
	$(BIN)/python -m scripts.report --scale $(SCALE) --results $(RESULTS)

figures-for-paper: setup  ## collect all figures as PDF and tables as LaTeX in results/for-paper
	$(BIN)/python -m scripts.paper_figures --scale $(SCALE) --results $(RESULTS)

SMOKE = $(addprefix table,1 2 3 4 5 6 7 8 9) policies predictor evidence counterfactual attention \
	fig3 fig4 fig5 overhead report
smoke: setup  ## run every target once at scale demo
	@set -e; for target in $(SMOKE); do $(MAKE) --no-print-directory $$target SCALE=demo; done

readme: setup  ## update the result tables in the README
	$(BIN)/python -m scripts.readme

docs: setup  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
