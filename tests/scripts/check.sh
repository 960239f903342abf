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

# Files are not trusted: a tensor of another shape or with coordinates outside is one failed case with a sentence, and the
# others go on.
# changed FILE TENSOR SHAPE VALUE TEXT: in a copy of the reference cases.
changed() {
	local case=$scratch/changed
	rm -rf "$case"
	mkdir "$case"
	case $1 in
	*/*) cp -rL "tests/golden/${1%%/*}" "$case" ;;
	*) cp -L "tests/golden/$1" "$case" ;;
	esac
	chmod -R u+w "$case"
	"$TRELLIS_BUILD/tests/change_tensor" "$case/$1" "$2" "$3" "$4" || failed=1
	"$trellis" check --quiet --device cpu "$case" >"$scratch/log" 2>&1
	[ $? = 1 ] && grep -q "^FAILED .*$5" "$scratch/log" && grep -q ' tensors compared, ' "$scratch/log" && return
	echo "$2 $3 $4: not '$5': $(head -n 3 "$scratch/log")"
	failed=1
}
changed dinov2_a/io.safetensors 70x70.in.image 1x1x70x70 0.5 "'70x70.in.image' is \[1, 1, 70, 70\], wanted \[1, 3, n, n\]"
changed dinov2_a/io.safetensors 70x70.in.image 1x3x71x70 0.5 '71 x 70 pixels are no patches of 14'
changed modules/ss_flow_a.io.safetensors in.x 1x8x4x4x4 0.5 "'in.x' is \[1, 8, 4, 4, 4\], wanted \[1, 8, 8, 8, 8\]"
changed modules/ss_flow_a.io.safetensors in.x 1x8x8x8x8 nan "number 0 of tensor 'in.x' is not finite"
changed modules/ss_flow_a.io.safetensors in.cond 1x21x5 0.5 "'in.cond' is \[1, 21, 5\], wanted \[1, n, 64\]"
changed modules/ss_flow_a.io.safetensors in.t 0 0.5 "'in.t' is \[n\], wanted \[1\]"
changed modules/slat_flow_a.io.safetensors in.coords 400x4 -2e9 'row 0 of in.coords lies outside the grid'
changed modules/slat_flow_a.io.safetensors in.coords 400x4 3 'row 1 of in.coords is not in lexicographic order'
changed modules/slat_flow_a.io.safetensors in.feats 1x1 0.5 "'in.feats' is \[1, 1\], wanted \[400, 8\]"
changed modules/slat_dec_gs_a.io.safetensors in.feats 200x7 0.5 "'in.feats' is \[200, 7\], wanted \[200, 8\]"
changed modules/sampler.io.safetensors in.noise 1x8x8x8x4 0.5 "'in.noise' is \[1, 8, 8, 8, 4\], wanted"
changed modules/sampler.io.safetensors param.a 5 1e9 'param.a: 1e+09 steps'
changed flexicubes_sphere.io.safetensors in.resolution 1 1e6 'in.resolution is 1e+06, wanted 1 to 512'
changed flexicubes_sphere.io.safetensors in.weights 2197x20 0.5 "'in.weights' is \[2197, 20\], wanted \[2197, 21\]"

# Links are not followed: /proc has some that lead everywhere.
mkdir "$scratch/links"
ln -s "$PWD/tests/golden/dinov2_a" "$scratch/links/there"
ln -s "$scratch/links" "$scratch/links/round"
"$trellis" check --device cpu "$scratch/links" >"$scratch/log" 2>&1
grep -q '^0 tensors compared' "$scratch/log" || { echo "a link was followed: $(tail -n 1 "$scratch/log")" && failed=1; }
exit $failed
