#!/bin/bash
# check.sh - the reference cases on the CPU backend; the oracle runs the small ones too, and a device that rounds to half
# precision those that tell. $TRELLIS_GOLDEN names one more directory of cases. Also that `trellis check` itself fails when it
# should.
set -u
cd "$(dirname "$0")/../.." || exit 1
trellis=$TRELLIS_BUILD/trellis
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

for directory in tests/golden ${TRELLIS_GOLDEN:-}; do
	"$trellis" check --quiet --device cpu "$directory" || failed=1
done
"$trellis" check --quiet --device reference tests/golden/modules || failed=1
"$trellis" check --quiet --device cpu --threads 1 tests/golden/modules || failed=1

: >"$scratch/plan" # of the fake plugin: it works
export TRELLIS_FAKE_PLUGIN=$scratch/plan TRELLIS_PLUGIN_DIR=$TRELLIS_BUILD/tests/plugins/fake
for dtype in f16 bf16; do
	"$trellis" check --quiet --device cuda --dtype $dtype tests/golden/modules || failed=1
	"$trellis" check --quiet --device cuda --dtype $dtype tests/golden/e2e || failed=1
done

# An expectation without a result, a changed weight and an empty directory are failures.
mkdir -p "$scratch/dinov2" "$scratch/empty"
cp tests/golden/dinov2_a/config.json tests/golden/dinov2_a/model.safetensors "$scratch/dinov2"
"$trellis" check --device cpu "$scratch/empty" >/dev/null && echo "an empty directory passed" && failed=1
sed 's/70x70.expect.tokens/70x70.expect.tokenz/' tests/golden/dinov2_a/io.safetensors >"$scratch/dinov2/io.safetensors"
"$trellis" check --device cpu "$scratch" >"$scratch/log" && echo "an expectation that nothing compares passed" && failed=1
cp tests/golden/dinov2_a/io.safetensors "$scratch/dinov2/io.safetensors"
"$trellis" check --quiet --device cpu "$scratch" >/dev/null || { echo "an untouched copy failed" && failed=1; }
size=$(stat -c %s "$scratch/dinov2/model.safetensors")
printf '\x00\x00\x80\x3f' | dd of="$scratch/dinov2/model.safetensors" bs=1 seek=$((size - 40000)) conv=notrunc status=none
"$trellis" check --device cpu "$scratch" >/dev/null && echo "a changed weight passed" && failed=1
exit $failed
