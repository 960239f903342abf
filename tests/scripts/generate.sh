#!/bin/bash
# generate.sh - trellis generate as its users call it, on the small reference pipeline: files and names, every format,
# the taps against the reference, and one line of error with status 1 for every bad input.
set -u
cd "$(dirname "$0")/../.." || exit 1
trellis=$TRELLIS_BUILD/trellis
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TRELLIS_MODEL_PATH=tests/golden/e2e
input=tests/golden/e2e/input.png
failed=0

fault() {
	echo "$*"
	failed=1
}

# refuse STATUS PATTERN ARGUMENT...: that status, one line on stderr that matches, and nothing written.
refuse() {
	local status=$1 pattern=$2 got
	shift 2
	"$trellis" generate --quiet --steps 1 "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null
	got=$?
	[ $got = "$status" ] || fault "generate $*: status $got, wanted $status"
	[ "$(wc -l <"$scratch/stderr")" = 1 ] || fault "generate $*: $(wc -l <"$scratch/stderr") lines of error"
	grep -qE -- "$pattern" "$scratch/stderr" || fault "generate $*: '$(cat "$scratch/stderr")' does not match '$pattern'"
}

bad=$scratch/bad
out=$scratch/out
mkdir "$bad"
: >"$bad/empty.png"
echo "no picture" >"$bad/text.png"
head -c 3000 $input >"$bad/cut.png"
printf 'RIFF\x10\x00\x00\x00WEBPVP8 ' >"$bad/modern.webp"
# a header of 60,000 x 60,000 pixels behind a valid signature
printf '\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\xea\x60\x00\x00\xea\x60\x08\x06\x00\x00\x00\x80\xd2\x75\x42\x00\x01\x00\x00IDAT' >"$bad/huge.png"
refuse 1 'nowhere.png: No such file' nowhere.png -o "$out"
refuse 1 "$bad: is a directory" "$bad" -o "$out"
refuse 1 'empty.png: is empty' "$bad/empty.png" -o "$out"
refuse 1 'text.png: is not an image' "$bad/text.png" -o "$out"
refuse 1 'cut.png: truncated' "$bad/cut.png" -o "$out"
refuse 1 'modern.webp: is a WebP image' "$bad/modern.webp" -o "$out"
refuse 1 'huge.png: .*60000' "$bad/huge.png" -o "$out"
refuse 1 'cannot write there' $input -o "$scratch/none/x.glb"
refuse 1 'one file for 2 pictures' $input $input -o "$scratch/x.glb"
refuse 1 'nothing.here: no such directory' --model nothing.here $input -o "$out"
refuse 1 "device 'gpu' is unknown" --device gpu $input -o "$out"
refuse 1 'cuda(:9999)?: ' --device cuda:9999 $input -o "$out"
refuse 1 'dtype f16: the CPU computes in f32' --device cpu --dtype f16 $input -o "$out"
refuse 2 '--memory much: wanted auto or low' --memory much $input
refuse 2 "'fbx' is none of" --format glb,fbx $input -o "$out"
refuse 2 '--steps 0' --steps 0 $input
refuse 2 '--seed -1' --seed -1 $input
refuse 2 'no picture was named' -o "$out"
# What could not be written, or would replace another result, is refused before the work.
mkdir "$bad/d1" "$bad/d2"
cp $input "$bad/d1/a.png"
cp $input "$bad/d2/a.jpg"
long=$(printf '%0246d' 0)
cp $input "$bad/$long.png"
refuse 1 "two pictures have the same name: both would become $scratch/new/a\\.\*" "$bad/d1/a.png" $input "$bad/d2/a.jpg" -o "$scratch/new"
refuse 1 'two pictures have the same name' $input $input -o "$out"
refuse 1 'x.fbx: its extension is none of glb' $input -o "$scratch/x.fbx"
refuse 1 "$long.png: the name of its .preview.png would be too long" "$bad/$long.png" -o "$scratch/new"
[ ! -e "$scratch/new" ] && [ ! -e "$scratch/x.fbx" ] || fault "a refused call made a folder"
[ -z "$(ls -A "$out" 2>/dev/null)" ] || fault "a failed run left $(ls "$out")"

"$trellis" generate --quiet --steps 1 --format glb,obj,ply,stl,gaussian.ply $input -o "$out" >/dev/null || fault "all formats: $?"
for name in glb obj ply stl gaussian.ply preview.png; do
	[ -s "$out/input.$name" ] || fault "out/input.$name is missing"
done
# Numbers that overflow are told as that, with the network's name, and not as an empty picture.
copy_model() {
	rm -rf "$scratch/m"
	cp -rL tests/golden/e2e "$scratch/m" && chmod -R u+w "$scratch/m"
}
for pair in image_cond_model:dinov2/model sparse_structure_flow_model:ckpts/ss_flow_img_dit_16l8 \
	sparse_structure_decoder:ckpts/ss_dec_conv3d_16l8 slat_flow_model:ckpts/slat_flow_img_dit_64l8p2 \
	slat_decoder_mesh:ckpts/slat_dec_mesh_swin8_64l8m256c slat_decoder_gs:ckpts/slat_dec_gs_swin8_64l8gs; do
	copy_model
	file=$scratch/m/${pair#*:}.safetensors
	size=$(stat -c %s "$file")
	# 7f7f7f7f is 3.4e38, and 7f7f no number in f16
	head -c 4000 /dev/zero | tr '\0' '\177' | dd of="$file" bs=1 seek=$((size - 4000)) conv=notrunc status=none
	refuse 1 "input.png: ${pair%:*}: the result is not finite in f32: " --model "$scratch/m" --format glb,gaussian.ply $input -o "$out"
done
copy_model
jq '.args.slat_normalization.std[3] = 3e38' tests/golden/e2e/pipeline.json >"$scratch/m/pipeline.json"
refuse 1 'slat_normalization: channel 3 of the latent is not finite with std 3e\+38' --model "$scratch/m" $input -o "$out"
jq '.args.slat_normalization.std[3] = 1e300' tests/golden/e2e/pipeline.json >"$scratch/m/pipeline.json"
refuse 1 'slat_normalization.std\[3\] is 1e\+300, more than f32 holds' --model "$scratch/m" $input -o "$out"

# One bad picture does not stop the others; a name with a space keeps it; no preview when not asked for.
cp $input "$bad/a chair.png"
"$trellis" generate --quiet --steps 1 --no-preview "$bad/text.png" "$bad/a chair.png" -o "$out" >/dev/null 2>&1
[ $? = 1 ] || fault "one bad picture of two: status is not 1"
[ -s "$out/a chair.glb" ] && [ ! -e "$out/a chair.preview.png" ] || fault "the good picture of two: $(ls "$out")"

# A file is called as it was named; a directory may have a point in its name; the longest names there are can be used.
"$trellis" generate --quiet --steps 1 $input -o "$scratch/X.GLB" >/dev/null || fault "X.GLB: $?"
[ -s "$scratch/X.GLB" ] && [ -s "$scratch/X.preview.png" ] && [ ! -e "$scratch/X.glb" ] || fault "X.GLB: $(ls "$scratch")"
"$trellis" generate --quiet --steps 1 --no-preview --format gaussian.ply $input -o "$scratch/run.2" >"$scratch/stdout" || fault "run.2: $?"
[ -s "$scratch/run.2/input.gaussian.ply" ] || fault "run.2: $(ls "$scratch/run.2")"
grep -q '/input.gaussian.ply: [0-9]* Gaussians in ' "$scratch/stdout" || fault "of Gaussians is said: $(cat "$scratch/stdout")"
"$trellis" generate --quiet --steps 1 --no-preview "$bad/$long.png" -o "$scratch/run.2/" >/dev/null || fault "a long name: $?"
[ -s "$scratch/run.2/$long.glb" ] || fault "a long name: $(ls "$scratch/run.2")"
"$trellis" generate --quiet --steps 1 --no-preview $input -o "$scratch/all.glb" >/dev/null
"$trellis" generate --quiet --steps 1 --no-preview --simplify 0 $input -o "$scratch/zero.glb" >/dev/null || fault "--simplify 0: $?"
cmp -s "$scratch/all.glb" "$scratch/zero.glb" || fault "--simplify 0 does not keep all"

# The taps of a run hold every intermediate (their values: check.sh).
"$trellis" generate --quiet --no-preview $input --taps "$scratch/taps.safetensors" -o "$scratch/x.glb" >/dev/null ||
	fault "taps: $?"
for name in cond ss_noise z_s coords slat_noise slat vertices faces vertex_attrs; do
	head -c 4096 "$scratch/taps.safetensors" | grep -aq "\"$name\"" || fault "taps have no $name"
done
exit $failed
