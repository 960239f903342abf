# trellisfs: everything is built into build/ (BUILD=...). `make help` lists the targets.

VERSION := 0.1.0
PREFIX ?= /usr/local
BUILD ?= build
CC ?= gcc
CFLAGS ?= -O2 -g
SANITIZE ?=
NPROC := $(shell nproc 2>/dev/null || echo 1)

# Debian packages: what the programs need, then what only the tests use (clang for the fuzzers).
DEB_BUILD := build-essential pkg-config libfuse3-dev fuse3 libpng-dev zlib1g-dev libjpeg-dev libjansson-dev libdnnl-dev \
	libmeshoptimizer-dev
DEB_TEST := libcriterion-dev attr jq rsync inotify-tools libglib2.0-bin clang libclang-rt-dev libomp-dev
# Not on a machine that somebody uses: the packages start servers. Without them the shares are skipped by name.
DEB_TEST += $(if $(CI),samba smbclient nfs-ganesha nfs-ganesha-vfs libnfs-utils rpcbind iproute2)

LIBS_MODEL := libpng libjpeg jansson zlib
LIBS_FS := fuse3 jansson zlib

override CFLAGS += -std=gnu11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -fno-math-errno \
	-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DTRELLISFS_VERSION='"$(VERSION)"' -DTRELLISFS_PREFIX='"$(PREFIX)"' \
	-Ikernels -Iengine -pthread
ifneq ($(SANITIZE),)
override CFLAGS += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
override LDFLAGS += -fsanitize=$(SANITIZE)
endif
override LDFLAGS += -pthread

# criterion's library and ThreadSanitizer want the same addresses; libgomp is not instrumented, so its barriers are unknown
# there: a build for threads has a small criterion of its own and no OpenMP. So has one where criterion is not installed.
CRITERION := -lcriterion
OPENMP := -fopenmp
ifneq ($(findstring thread,$(SANITIZE))$(if $(wildcard /usr/include/criterion/criterion.h),,none),)
CRITERION :=
override CFLAGS += -Itests/tsan
endif
ifneq ($(findstring thread,$(SANITIZE)),)
OPENMP := -Wno-unknown-pragmas -Wno-unused-variable -Wno-unused-parameter
endif

# pkg-config is asked only when something is compiled, so that `make help` and `make deps` work on a bare machine.
# -fno-trapping-math: nothing reads the exception flags, and gcc vectorises a choice between two floats only then.
MODEL_CFLAGS = -fno-trapping-math $(shell pkg-config --cflags $(LIBS_MODEL)) $(OPENMP)
MODEL_LIBS = -ldnnl -lmeshoptimizer $(shell pkg-config --libs $(LIBS_MODEL)) -fopenmp -lm
FS_CFLAGS = $(shell pkg-config --cflags $(LIBS_FS))
FS_LIBS = $(shell pkg-config --libs $(LIBS_FS))

MODEL_SRC := $(wildcard kernels/*.c engine/*.c)
CLI_SRC := $(wildcard engine/cli/*.c)
# engine/protocol.c is what daemon and worker both speak: it is in both libraries.
FS_SRC := engine/protocol.c $(filter-out fs/main.c,$(wildcard fs/*.c))
TEST_SRC := $(wildcard tests/test_*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)

# The CUDA backend is a library of its own, built where there is a compiler for it (12.8 or later). Native code for every
# generation since Ampere and PTX for what comes after; CUDA_ARCHS=90 is quicker while developing.
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCHS ?= 80 86 89 90 100 120
CUDA_PTX ?= 80 120
CUDA_RELEASE := $(if $(NVCC),$(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p'))
ifneq ($(NVCC),)
ifeq ($(shell printf '%s\n' 12.8 '$(CUDA_RELEASE)' | sort -VC && echo new),)
$(info the GPU's part is left out: it needs CUDA 12.8 or newer, $(NVCC) is $(or $(CUDA_RELEASE),no compiler of it))
override NVCC :=
endif
endif
# Where nvcc itself looks: it may be a link or a script somewhere else.
CUDA_DRYRUN = $(shell $(NVCC) --dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^\#\$$ $(1)=//p')
CUDA_INCLUDES = $(patsubst -I%,-isystem %,$(subst ",,$(call CUDA_DRYRUN,INCLUDES)))
CUDA_LIBRARIES = $(call CUDA_DRYRUN,LIBRARIES)
CUDA_SRC := $(wildcard kernels/cuda/*.c kernels/cuda/*.cu)
# What runs on one architecture only: wgmma is sm_90a's.
CUDA_GENCODE = $(if $(findstring _hopper,$(1)),-gencode arch=compute_90a$(comma)code=sm_90a,\
	$(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
	$(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a)$(comma)code=compute_$(a)))
comma := ,
CUDA_PLUGIN := $(if $(NVCC),$(BUILD)/trellis-cuda.so)
CUDA_OBJ := $(patsubst %,$(BUILD)/obj/%.o,$(CUDA_SRC)) $(patsubst %,$(BUILD)/obj/pic/%.o,kernels/backend kernels/scratch kernels/convert \
	kernels/flexicubes_tables)

MODEL_LIB := $(BUILD)/libtrellis.a
FS_LIB := $(BUILD)/libtrellisfs.a
OBJ = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
TESTS := $(TEST_SRC:tests/%.c=$(BUILD)/tests/%) $(addprefix $(BUILD)/tests/,fake_worker mount_tool mount_exerciser mount_storm state_damage older_kernel fs_scale \
	fscore random_model large_compare change_tensor) \
	$(foreach p,fake attack missing none,$(BUILD)/tests/plugins/$(p)/trellis-cuda.so) $(BUILD)/tests/slow_disk.so
FUZZERS := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
PROGRAMS := $(if $(CLI_SRC),$(BUILD)/trellis) $(if $(wildcard fs/main.c),$(BUILD)/trellisfs)

.PHONY: help deps all check test check-gpu bench-gpu bench demo install format lint fuzz asan tsan
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo '  variables: BUILD=build CC=gcc|clang CFLAGS PREFIX=/usr/local DESTDIR SANITIZE=address,undefined'

deps: ## install the Debian packages that are missing (asks before sudo unless root or CI)
	@contrib/deps.sh $(DEB_BUILD) $(DEB_TEST)

all: $(PROGRAMS) $(CUDA_PLUGIN) ## build the programs

$(BUILD)/obj/fs/%.o: fs/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(FS_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(MODEL_CFLAGS) -MMD -MP -c -o $@ $<

# No fast-math anywhere; the CPU kernels may reassociate sums where the code says so with `omp simd`.
$(MODEL_LIB): $(call OBJ,$(MODEL_SRC))
	@mkdir -p $(@D)
	rm -f $@ && $(AR) rcs $@ $^

$(FS_LIB): $(call OBJ,$(FS_SRC))
	@mkdir -p $(@D)
	rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/trellis: $(call OBJ,$(CLI_SRC)) $(MODEL_LIB)
	$(CC) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS)

$(BUILD)/trellisfs: $(call OBJ,fs/main.c) $(FS_LIB)
	$(CC) $(LDFLAGS) -o $@ $^ $(FS_LIBS)

# cublasLt is the only library that must be there at run time; the driver's is found by the runtime, which is linked in.
$(BUILD)/trellis-cuda.so: $(CUDA_OBJ)
	$(CC) $(LDFLAGS) -shared -fopenmp -o $@ $^ $(CUDA_LIBRARIES) -lcublasLt -lcudart_static -lstdc++ -lm -ldl -lrt -Wl,-z,defs

# The compiler's report on registers and memory is kept beside each object: tests/scripts/cuda_resources.sh reads it.
$(BUILD)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) -O3 -std=c++17 -lineinfo $(CUDA_DEFINES) $(call CUDA_GENCODE,$*) -Xptxas -v -Xcompiler -fPIC,-fvisibility=hidden,-Wall \
		-MMD -MP -c -o $@ $< 2>$@.log || { cat $@.log >&2; exit 1; }
	@grep -E 'warning|error' $@.log >&2 || true

$(BUILD)/obj/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fPIC -fvisibility=hidden -fopenmp $(CUDA_INCLUDES) -MMD -MP -c -o $@ $<

$(BUILD)/obj/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(MODEL_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# tests/test_fs_*.c are tests of the daemon's parts, the others of the model's.
$(BUILD)/tests/test_fs_%: $(BUILD)/obj/tests/test_fs_%.o $(FS_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(FS_LIBS) $(CRITERION)

# Stands in for `trellis worker` in the daemon's tests.
$(addprefix $(BUILD)/tests/,fake_worker mount_tool mount_exerciser mount_storm state_damage older_kernel fs_scale): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(FS_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(FS_LIBS)

$(BUILD)/examples/%: $(BUILD)/obj/examples/%.o $(MODEL_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS)

$(addprefix $(BUILD)/tests/,fscore random_model large_compare change_tensor): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(MODEL_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS)

# Stand in for the CUDA plugin: one that does as it is told, one that attacks, one whose library is missing, one that is none.
$(BUILD)/tests/plugins/fake/trellis-cuda.so: $(patsubst %.c,$(BUILD)/obj/pic/%.o,tests/fake_plugin.c $(wildcard kernels/*.c))
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^ -ldnnl -fopenmp -lm

$(BUILD)/tests/plugins/attack/trellis-cuda.so: $(BUILD)/obj/pic/tests/attack_plugin.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^

$(BUILD)/tests/plugins/missing/trellis-cuda.so:
	@mkdir -p $(@D)
	$(CC) -shared -o $(@D)/libcublasLt.so.0 -Wl,-soname,libcublasLt.so.0 -x c /dev/null
	$(CC) -shared -o $@ -Wl,--no-as-needed $(@D)/libcublasLt.so.0 -x c /dev/null
	rm $(@D)/libcublasLt.so.0

$(BUILD)/tests/slow_disk.so: tests/slow_disk.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -Wno-missing-prototypes -fPIC -shared -o $@ $< -ldl

$(BUILD)/tests/plugins/none/trellis-cuda.so:
	@mkdir -p $(@D)
	$(CC) -shared -o $@ -x c /dev/null

$(BUILD)/tests/test_%: $(BUILD)/obj/tests/test_%.o $(MODEL_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(MODEL_LIBS) $(CRITERION)

$(BUILD)/obj/tests/test_fs_%.o: tests/test_fs_%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(FS_CFLAGS) -Ifs -MMD -MP -c -o $@ $<

$(BUILD)/obj/tests/fs_%.o: tests/fs_%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(FS_CFLAGS) -Ifs -MMD -MP -c -o $@ $<

check: all $(TESTS) ## unit and golden tests: seconds, no network, no GPU
	@tests/run.sh $(BUILD) check

test: ## set up the machine, build, run every test that needs no GPU
	@$(MAKE) --no-print-directory deps
	@echo "building the programs and their tests"
	@$(MAKE) -s --no-print-directory -j$(NPROC) all $(TESTS)
	@tests/run.sh $(BUILD) all

GPU_TESTS := $(addprefix $(BUILD)/tests/,test_kernels test_kernels_extract random_model large_compare)

check-gpu: all $(GPU_TESTS) ## everything that needs an NVIDIA GPU: kernels, reference cases, probe, real faults; no network
	@tests/gpu/check.sh $(BUILD)

bench-gpu: all $(GPU_TESTS) ## the stage table, kernels, loading, memory and whole jobs on an NVIDIA GPU
	@tests/gpu/bench.sh $(BUILD)

bench: all $(TESTS) ## benchmarks (ratios inside one run)
	@tests/bench.sh $(BUILD)

demo: ## set up, build, mount, turn three pictures into meshes, show the result
	@contrib/deps.sh $(DEB_BUILD)
	@echo "building (about a minute on two cores)"
	@$(MAKE) -s --no-print-directory -j$(NPROC) all
	@examples/demo.sh $(BUILD)

install: all ## install the programs, library, model and man pages (DESTDIR, PREFIX)
	@contrib/install.sh $(BUILD) "$(PREFIX)" "$(DESTDIR)"

format: ## format the C sources in place
	clang-format -i $(shell git ls-files '*.c' '*.h')

lint: ## formatting, cppcheck and clang-tidy
	@tests/lint.sh

fuzz: ## libFuzzer targets with ASan and UBSan; FUZZ_S=600 seconds each
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzzing CC=clang CFLAGS='-O1 -g -DFUZZING' \
		SANITIZE=address,undefined,fuzzer-no-link fuzzers
	@tests/fuzz/run.sh $(BUILD)/fuzzing $(or $(FUZZ_S),600)

check-crash: all $(TESTS) ## 1,000 random SIGKILLs of daemon, helper and worker under load; ROUNDS=N SEED=N LANES=N
	@TRELLIS_BUILD=$(abspath $(BUILD)) ROUNDS=$(or $(ROUNDS),1000) tests/scripts/mount_crash.sh

check-damage: all $(TESTS) ## 1,000 times a state directory that is damaged at random; ROUNDS=N SEED=N LANES=N
	@TRELLIS_BUILD=$(abspath $(BUILD)) ROUNDS=$(or $(ROUNDS),1000) tests/scripts/mount_damage.sh

check-power: all $(TESTS) ## 200 losses of power under load, on an ext4 of its own (root); ROUNDS=N SEED=N
	@TRELLIS_BUILD=$(abspath $(BUILD)) ROUNDS=$(or $(ROUNDS),200) tests/scripts/mount_power.sh

check-long: all $(TESTS) ## 100,000 file operations against a model in memory, and the rest of that test; OPERATIONS=N
	@TRELLIS_BUILD=$(abspath $(BUILD)) OPERATIONS=$(or $(OPERATIONS),100000) tests/scripts/mount_tree.sh

check-leaks: all $(TESTS) ## resident memory over 1,000 jobs of the stand-in and of the reference model; JOBS=N REAL_JOBS=N
	@TRELLIS_BUILD=$(abspath $(BUILD)) JOBS=$(or $(JOBS),1000) REAL_JOBS=$(or $(REAL_JOBS),1000) tests/mount/leaks.sh

check-valgrind: all $(TESTS) ## two tests of the mount with the daemon in valgrind
	@TRELLIS_BUILD=$(abspath $(BUILD)) tests/mount/valgrind.sh

.PHONY: check-crash check-damage check-power check-long check-leaks check-valgrind
.PHONY: fuzzers
fuzzers: $(FUZZERS)

$(BUILD)/fuzz/fuzz_fs_%: $(BUILD)/obj/tests/fuzz/fuzz_fs_%.o $(FS_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(FS_LIBS)

$(BUILD)/fuzz/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(MODEL_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(MODEL_LIBS)

$(BUILD)/obj/tests/fuzz/fuzz_fs_%.o: tests/fuzz/fuzz_fs_%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(FS_CFLAGS) -Ifs -MMD -MP -c -o $@ $<

asan: ## build and check with AddressSanitizer and UBSan (build/asan)
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SANITIZE=address,undefined NVCC= check

tsan: ## build and check with ThreadSanitizer (build/tsan)
	@TSAN_OPTIONS=allocator_may_return_null=1 $(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SANITIZE=thread NVCC= check

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
