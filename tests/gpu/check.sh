#!/bin/bash
# check.sh BUILD - what can only be seen on a machine with an NVIDIA GPU: every kernel against the oracle in each type,
# on the path of this architecture and on the one that all share; the reference cases; the probe's verdicts and real
# faults. Prints a line each and a summary. Needs no network. `make check-gpu` builds what it uses.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
[ "${build#/}" = "$build" ] && build=$PWD/$build
trellis=$build/trellis
plugin=$build/trellis-cuda.so
golden=${TRELLIS_GOLDEN:-tests/golden}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=() skipped=()

run() { # name, command...
	local name=$1 start=$SECONDS
	shift
	if "$@" >"$scratch/log" 2>&1; then
		passed=$((passed + 1)) && printf 'ok      %-44s %3d s  %s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$scratch/log" | cut -c1-90)"
	elif [ $? = 77 ]; then
		skipped+=("$name") && printf 'skipped %-44s %s\n' "$name" "$(tail -n 1 "$scratch/log")"
	else
		failed+=("$name") && printf 'FAILED  %s\n' "$name" && tail -n 25 "$scratch/log" | cut -c1-200 | sed 's/^/        /'
	fi
}

# The command fails and says so in words that match.
refused() { # pattern, command...
	local pattern=$1
	shift
	"$@" >"$scratch/out" 2>&1 && cat "$scratch/out" && echo "it did not fail" && return 1
	cat "$scratch/out"
	grep -qE "$pattern" "$scratch/out" || { echo "nothing like: $pattern" && return 1; }
	grep -E "$pattern" "$scratch/out" | tail -n 1
}

kernels() { TRELLIS_TEST_PLUGIN=$plugin "$build/tests/test_kernels" && TRELLIS_TEST_PLUGIN=$plugin "$build/tests/test_kernels_extract"; }
kernels_mma() { TRELLIS_CUDA_MMA=1 kernels; }
# What a card of tomorrow would run. CUDA_FORCE_PTX_JIT=1 cannot be used: cuBLASLt itself does not start under it.
kernels_ptx() {
	make -s -j"$(nproc)" BUILD="$build/ptx" CUDA_ARCHS= CUDA_PTX=80 "$build/ptx/trellis-cuda.so" >/dev/null || return 1
	TRELLIS_CUDA_MMA=1 TRELLIS_TEST_PLUGIN=$build/ptx/trellis-cuda.so "$build/tests/test_kernels"
}
check() { "$trellis" check --quiet --device cuda "$@" "$golden"; }
# Without the whole pipeline: a voxel of it lies nearer to its threshold (3.7e-3) than bf16 can tell.
networks() {
	for part in modules dinov2_a dinov2_b; do
		"$trellis" check --quiet --device cuda "$@" "$golden/$part" || return 1
	done
}
check_mma() { TRELLIS_CUDA_MMA=1 check "$@"; }

# Every stage at TRELLIS-image-large's size, on random weights.
full_size() { TRELLIS_PLUGIN_DIR=$build "$build/tests/large_compare"; }

twice() { # the same seed gives the same bytes
	"$trellis" generate --device cuda examples/duck.png -o "$scratch/a.glb" &&
		"$trellis" generate --device cuda examples/duck.png -o "$scratch/b.glb" &&
		cmp "$scratch/a.glb" "$scratch/b.glb" && sha256sum "$scratch/a.glb"
}

# Networks that come and go, loaded by a thread of their own while others work, change nothing.
low_memory() { "$trellis" generate --device cuda --memory low examples/duck.png -o "$scratch/low.glb" && cmp "$scratch/a.glb" "$scratch/low.glb" && sha256sum "$scratch/low.glb"; }

sanitizer() { # tool, command...
	local tool
	tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
	[ -x "$tool" ] || { echo "compute-sanitizer is not installed" && return 77; }
	"$tool" --tool "$1" --target-processes all --error-exitcode 9 "${@:2}"
}
memcheck() { TRELLIS_TEST_PLUGIN=$plugin sanitizer memcheck "$build/tests/test_kernels" &&
	sanitizer memcheck "$trellis" check --quiet --device cuda "$golden/modules" &&
	sanitizer memcheck "$trellis" generate --device cuda --memory low --steps 2 examples/duck.png -o "$scratch/x.glb"; }
# Slow: two networks with every kind of operation but the surface, on the path that this card takes.
racecheck() {
	mkdir -p "$scratch/small/ckpts" && cp "$golden"/modules/{slat_flow_b,ss_flow_c}.io.safetensors "$scratch/small" &&
		cp "$golden"/modules/ckpts/{slat_flow_b,ss_flow_c}.* "$scratch/small/ckpts" &&
		sanitizer racecheck "$trellis" check --quiet --device cuda "$scratch/small"
}

# Another process holds nearly all memory.
no_memory() {
	cat >"$scratch/hold.cu" <<'CU'
#include <cuda_runtime.h>
#include <stdio.h>
#include <unistd.h>
int main() { void *p; size_t free, total; cudaMemGetInfo(&free, &total);
	size_t take = free - (size_t)(420 << 20);
	if (cudaMalloc(&p, take) != cudaSuccess) return 1;
	puts("held"); fflush(stdout); sleep(60); return 0; }
CU
	nvcc -o "$scratch/hold" "$scratch/hold.cu" || return 1
	"$scratch/hold" >"$scratch/held" &
	local pid=$! status
	for _ in $(seq 50); do [ -s "$scratch/held" ] && break; sleep 0.2; done
	"$trellis" bench --device cuda --random large --stage "structure flow" >"$scratch/out" 2>&1
	status=$?
	kill $pid
	tail -n 1 "$scratch/out"
	[ $status != 0 ] && grep -q "out of memory" "$scratch/out"
}

# A driver that answers as an old one does.
old_driver() {
	cat >"$scratch/old.c" <<'C'
int cuDriverGetVersion(int *v) { *v = 11040; return 0; }
int cuInit(unsigned flags) { (void)flags; return 0; }
C
	mkdir -p "$scratch/old" && gcc -shared -fPIC -o "$scratch/old/libcuda.so.1" "$scratch/old.c" || return 1
	LD_LIBRARY_PATH=$scratch/old:${LD_LIBRARY_PATH:-} refused "driver" "$trellis" generate --device cuda examples/duck.png -o "$scratch/x.glb"
}

# auto falls to the CPU, works, and says why.
falls_to_cpu() {
	CUDA_VISIBLE_DEVICES='' "$trellis" generate --device auto examples/duck.png -o "$scratch/x.glb" >"$scratch/out" 2>&1 || { cat "$scratch/out"; return 1; }
	[ -s "$scratch/x.glb" ] && grep -i "cuda" "$scratch/out"
}

# A kernel that writes where it must not, in a build made for it: every later call fails, and the error says what.
sticky() {
	make -s -j"$(nproc)" BUILD="$build/fault" CUDA_DEFINES=-DTRELLIS_CUDA_FAULT "$build/fault/trellis" "$build/fault/trellis-cuda.so" >/dev/null || return 1
	refused "illegal memory access" "$build/fault/trellis" generate --device cuda examples/duck.png -o "$scratch/x.glb"
}

# The same under a mount: the job is done again, fails again, and the CPU makes it; status tells.
sticky_mount() {
	if [ ! -e /dev/fuse ]; then echo "no /dev/fuse" && return 77; fi
	mkdir -p "$scratch/mount"
	TRELLIS_PLUGIN_DIR=$build/fault "$build/trellisfs" -o "state=$scratch/state,device=auto" "$scratch/mount" || return 1
	cp examples/duck.png "$scratch/mount/in/" && "$trellis" wait --timeout 200 "$scratch/mount/in/duck.png"
	cat "$scratch/mount/status"
	grep -q "done again elsewhere: .*illegal memory access" "$scratch/mount/status" && [ -s "$scratch/mount/out/duck.glb" ]
	local status=$?
	umount "$scratch/mount"
	return $status
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$trellis" --version
run "kernels against the oracle" kernels
run "kernels, the path of all architectures" kernels_mma
run "kernels, compiled from PTX" kernels_ptx
run "reference cases, f32" check --dtype f32
run "reference cases, f16" check --dtype f16
run "reference networks, bf16" networks --dtype bf16
run "reference cases, f16, the path of all" check_mma --dtype f16
run "CUDA against CPU at full size" full_size
run "the same seed twice" twice
run "the same bytes with little memory" low_memory
run "doctor" "$trellis" doctor
run "memcheck" memcheck
run "racecheck" racecheck
run "no such device" refused "9" "$trellis" generate --device cuda:9 examples/duck.png -o "$scratch/x.glb"
run "no visible device" env CUDA_VISIBLE_DEVICES= bash -c "! '$trellis' generate --device cuda examples/duck.png -o '$scratch/x.glb'"
run "auto falls to the CPU and says why" falls_to_cpu
run "memory taken by another process" no_memory
run "a driver older than the runtime" old_driver
run "a fault that is the context's" sticky
run "such a fault under a mount" sticky_mount
for line in ${failed[@]+"${failed[@]}"}; do echo "failed: $line"; done
for line in ${skipped[@]+"${skipped[@]}"}; do echo "skipped: $line"; done
echo "$passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
[ ${#failed[@]} = 0 ] && [ $passed -gt 0 ]
