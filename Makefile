# SPDX-License-Identifier: GPL-2.0
#
# `make help` lists the targets. The work is done by scripts/, the module's own
# makefile is Kbuild.

.DELETE_ON_ERROR:
.SUFFIXES:

build := $(CURDIR)/build$(if $(FLAVOUR),/$(FLAVOUR))
scripts := $(CURDIR)/scripts
export FLAVOUR

# The module alone, for any suitable kernel build tree.
KDIR ?= $(or $(wildcard $(build)/kernel),/lib/modules/$(shell uname -r)/build)
RUSTC ?= rustc
BINDGEN ?= $(or $(wildcard $(build)/bindgen/bin/bindgen),bindgen)

# Kbuild takes the compiler family from LLVM=: the one that built the kernel.
# bindgen shall parse headers with the same.
clang := $(shell sed -n 's/^CONFIG_CLANG_VERSION=\([1-9][0-9]*\)[0-9]\{4\}$$/\1/p' $(KDIR)/.config 2>/dev/null)
llvm := $(if $(clang),LLVM=$(if $(shell command -v clang-$(clang)),-$(clang),1))
libclang := $(wildcard /usr/lib/llvm-$(clang)/lib)
kbuild = $(if $(libclang),LIBCLANG_PATH=$(libclang)) \
	$(MAKE) -C $(KDIR) M=$(CURDIR) $(llvm) RUSTC=$(RUSTC) BINDGEN=$(BINDGEN)
preflight := $(scripts)/preflight.sh $(KDIR) $(RUSTC) $(BINDGEN)

.PHONY: modules
modules:
	@$(preflight)
	@mkdir -p $(build)/module
	$(kbuild) MO=$(build)/module modules

# Warnings are errors here, and only here: a new compiler may have new ones.
.PHONY: clippy
clippy:
	@$(preflight)
	@mkdir -p $(build)/clippy
	$(kbuild) MO=$(build)/clippy CLIPPY=1 KRUSTFLAGS=-Dwarnings modules

.PHONY: help
help:
	@echo 'make [KDIR=<kernel build tree>] [RUSTC=<rustc>]'
	@echo '                   build kvm_aperfmperf.ko into build/module'
	@echo 'make demo          show a guest reading its own counters, on Intel and on AMD'
	@echo 'make check         run every test; the last line is the result'
	@echo 'make check T=NAME  run one test, such as T=no_exit or T=upstream:state_test'
	@echo 'make check-deep    run what takes hours, go on where it was; T=PART or T=PART:CASE again'
	@echo 'make kernel        build the patched Linux into the cache; build/kernel is a link to it'
	@echo 'make bochs         build the patched emulator into the cache; build/bochs is a link to it'
	@echo 'make clippy        lint the module, with KDIR and RUSTC as above'
	@echo 'make docs          build the documentation into build/docs'
	@echo 'make fmt           format the Rust sources'
	@echo 'make clean         remove build'
	@echo
	@echo 'All but the first and clean install the Debian packages that are missing.'
	@echo 'KERNEL_TARBALL=<file> takes the source of Linux from there.'
	@echo 'FLAVOUR=debug tests with a kernel that checks more, FLAVOUR=rt with PREEMPT_RT.'
	@echo 'KVMTOOL=<file> boots the Linux guest with that static lkvm, not the own monitor.'
	@echo 'The cache is $${XDG_CACHE_HOME:-~/.cache}/kvm-aperfmperf, logs are in build/logs.'

.PHONY: packages
packages:
	@$(scripts)/packages.sh

.PHONY: kernel
kernel: packages
	@$(scripts)/fetch-kernel.sh
	@$(scripts)/build-bindgen.sh
	@$(scripts)/build-kernel.sh

.PHONY: bochs
bochs: packages
	@$(scripts)/fetch-bochs.sh
	@$(scripts)/build-bochs.sh

# All that the emulated machine needs.
.PHONY: machine
machine: kernel bochs
	@$(scripts)/build-upstream.sh
	@$(scripts)/fetch-tools.sh
	@$(scripts)/build-machine.sh

.PHONY: demo
demo: machine
	@$(scripts)/demo.sh

.PHONY: check
check: machine
	@$(scripts)/check.sh $(T)

.PHONY: check-deep
check-deep: machine
	@$(scripts)/check-deep.sh $(T)

.PHONY: fmt
fmt: kernel
	find rust src -name '*.rs' -exec \
		rustfmt --edition 2021 --config-path $(build)/kernel/.rustfmt.toml {} +
	find selftests -name target -prune -o -name '*.rs' -exec rustfmt --edition 2024 {} +

# Sphinx and all that it needs, at exactly the versions that are known to work.
venv := $(build)/venv
$(venv)/ready: Documentation/requirements.txt
	/usr/bin/python3 -m venv --clear $(venv)
	$(venv)/bin/pip install --quiet --no-deps --requirement $<
	touch $@

.PHONY: docs
docs: packages
	@$(MAKE) --no-print-directory $(venv)/ready
	$(venv)/bin/sphinx-build --quiet -W --keep-going Documentation $(build)/docs
	@echo 'docs: build/docs/index.html'

.PHONY: clean
clean:
	rm -rf $(build)
