# `make help` is the contract. Every target does the set-up it needs; a second run repeats nothing.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast fuzz sim lies test-erase test-deploy test-lab image guest lab bench bench-erase bench-leave bench-write lint types fmt schemas clean
TEETH := .venv/bin/teeth
PYTEST := .venv/bin/python -m pytest
# Two for each processor: many tests wait for a process, a timer or a disk.
WORKERS_FAST := $(shell echo $$((2 * $$(nproc))))
# One for each processor, as far as memory bears their machines (tests/boot/room.py).
WORKERS_BOOT = $(shell PYTHONPATH=tests .venv/bin/python -m boot.room)
# Before such tests, so that no worker waits for another's build.
IMAGES = $(TEETH) image build && $(TEETH) image build ramdisk-debug && $(TEETH) image guest
# Both releases as whole disk and root archive, and the forms that users have.
GUESTS = $(TEETH) image guest --release trixie && \
	$(TEETH) image guest --release bookworm --form qcow2 --form gzip --form xz
PARALLEL_BOOT = -n $(WORKERS_BOOT) --dist loadgroup

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install packages and make .venv with the teeth command
	@scripts/setup

demo: setup ## Take a dirty virtual machine to a landed one and prove it: build/demo/report.json
	@$(TEETH) demo

test: setup lint types ## Every test: unit, protocol, elements, image, boot
	@$(PYTEST) -n $(WORKERS_FAST) --dist worksteal -m "not image and not boot"
	@$(IMAGES)
	@$(GUESTS)
	@$(PYTEST) $(PARALLEL_BOOT) -m "image or boot"

test-fast: setup lint types ## The tests that need no image, no boot and no minutes (under two)
	@$(PYTEST) -n $(WORKERS_FAST) --dist worksteal -m "not image and not boot and not slow"

test-lab: setup ## Described machines, networks and faults in real guests; real tools against simulated drives
	@$(IMAGES)
	@$(PYTEST) $(PARALLEL_BOOT) tests/lab

test-erase: setup ## decom.disk_erase in real guests, every outcome, and what the host then finds
	@$(IMAGES)
	@$(PYTEST) $(PARALLEL_BOOT) tests/erase

test-deploy: setup ## Debian 12 and 13 put on machines and started, hostile images, power cuts: half the cases; FULL=1 all
	@$(IMAGES)
	@$(GUESTS)
	@$(PYTEST) $(PARALLEL_BOOT) tests/deploy

fuzz: setup ## Fuzz the readers of untrusted input: SECONDS=60 TARGET=json
	@.venv/bin/python tests/fuzz/run.py "$(SECONDS)" "$(TARGET)"

sim: setup ## Simulate agent and endpoint under faults: SEEDS=1000 WORKERS=2 PLANT=..., or replay SEED=K
	@PYTHONPATH=tests .venv/bin/python -m sim $(if $(SEED),--seed $(SEED) --trace,$(if $(SEEDS),--seeds $(SEEDS))) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(FIRST),--first $(FIRST)) $(if $(PLANT),--plant $(PLANT))

lies: setup ## Erase drives that lie and look at their media: SEEDS=100 WORKERS=2 LIE=... METHOD=..., or replay SEED=K
	@PYTHONPATH=tests .venv/bin/python -m lies $(if $(SEED),--seed $(SEED),$(if $(SEEDS),--seeds $(SEEDS))) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(FIRST),--first $(FIRST)) $(if $(PLANT),--plant $(PLANT)) \
		$(if $(LIE),--lie $(LIE)) $(if $(METHOD),--method $(METHOD)) $(if $(PAGE),--page)

image: setup ## Build the ramdisk: build/ramdisk/{vmlinuz,initramfs,manifest.json}
	@$(TEETH) image build

guest: setup ## Build the operating system image that the demo deploys: build/guest/
	@$(TEETH) image guest

lab: setup ## Find the accelerator that truly works here and show what the lab can do
	@$(TEETH) lab probe

bench: setup image ## Measure the JSON reader, pings under load, boot to dial-home, memory, many at once, erasing, writing, serving and distributing images: build/bench/*.json
	@.venv/bin/python bench/strictjson.py
	@.venv/bin/python bench/ping.py
	@.venv/bin/python bench/boot.py
	@.venv/bin/python bench/many.py
	@.venv/bin/python bench/erase.py
	@.venv/bin/python bench/write.py
	@.venv/bin/python bench/serve.py
	@.venv/bin/python bench/distribute.py

bench-erase: setup ## Measure overwriting and reading back beside nwipe, shred, dd, blkdiscard: build/bench/erase.json
	@.venv/bin/python bench/erase.py

bench-leave: setup image ## Measure leaving for the deployed system, kexec beside a restart: build/bench/leave.json
	@PYTHONPATH=tests .venv/bin/python bench/leave.py

bench-write: setup ## Measure writing an image and reading it back beside zstd | dd, qemu-img, bmaptool: build/bench/write.json
	@.venv/bin/python bench/write.py

lint: setup ## ruff, import-linter, dib-lint, shellcheck
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-cache
	@scripts/lint-elements

types: setup ## mypy --strict
	@.venv/bin/mypy

schemas: setup ## Write docs/schema and the parts of docs/protocol.md that come from the code
	@.venv/bin/python scripts/protocol_docs.py

fmt: setup ## Format the code
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .

clean: ## Remove everything built (not .venv)
	@rm -rf --one-file-system build # a killed build may have left the host's /dev mounted there
