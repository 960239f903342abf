#!/bin/bash
# bench.sh BUILD - the figures of kernels/NOTES.md "CUDA", on this machine: the stage table at 10,000 and 20,000 voxels, the
# single operations, loading, memory, and whole jobs on a model of random weights (tests/random_model.c, made in
# $TMPDIR, 3.3 GB). `make bench-gpu` builds what it uses.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
[ "${build#/}" = "$build" ] && build=$PWD/$build
trellis=$build/trellis
model=$(mktemp -d)
trap 'rm -rf "$model"' EXIT

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
for n in 10000 20000; do
	"$trellis" bench --device cuda --random large --voxels $n
done
echo "the path of all architectures:"
TRELLIS_CUDA_MMA=1 "$trellis" bench --device cuda --random large --voxels 10000
"$trellis" bench --device cuda --kernels
"$build/tests/random_model" "$model" && cat "$model"/*/*.safetensors >/dev/null
tests/gpu/jobs.sh "$build" "$model" device=cuda:0
tests/gpu/jobs.sh "$build" "$model" device=cuda:0,memory=low
[ "$(nvidia-smi --list-gpus | wc -l)" -gt 1 ] && tests/gpu/jobs.sh "$build" "$model"
exit 0
