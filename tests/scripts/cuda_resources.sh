#!/bin/bash
# cuda_resources.sh - no kernel spills registers, and outside sm_90a none needs more than the 99 KB of shared memory that a
# block gets everywhere: read off the compiler's report, kept beside each object. (Shared memory that a launch asks for
# is held to the same by static_asserts in the sources.)
set -u
cd "$(dirname "$0")/../.." || exit 1
reports=("$TRELLIS_BUILD"/obj/kernels/cuda/*.cu.o.log)
[ -e "${reports[0]}" ] || { echo "the CUDA backend was not built: no nvcc"; exit 77; }
awk '
	/Compiling entry function/ { kernel = $0; sub(/^[^\047]*\047/, "", kernel); sub(/\047 for .*/, "", kernel)
		arch = $0; sub(/.* for \047/, "", arch); sub(/\047.*/, "", arch); kernels++; archs[arch] = 1 }
	/bytes spill stores/ { spills = $0; sub(/.*frame, /, "", spills)
		if (spills !~ /^0 bytes spill stores, 0 bytes spill loads/) { print FILENAME ": " kernel " (" arch ") spills: " spills; bad = 1 } }
	/bytes smem/ { smem = $0; sub(/ bytes smem.*/, "", smem); sub(/.* /, "", smem)
		if (arch != "sm_90a" && smem + 0 > 99 * 1024) { print FILENAME ": " kernel " (" arch ") needs " smem " bytes of shared memory"; bad = 1 } }
	END { list = ""; for (a in archs) list = list " " a
		print kernels " kernels looked at, for" list
		if (!kernels) { print "the reports are empty"; bad = 1 }
		exit bad }
' "${reports[@]}"
