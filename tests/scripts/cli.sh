#!/bin/bash
# cli.sh - trellis as its users call it: help, wrong usage, inspect and doctor; exit status and one line of error each.
set -u
cd "$(dirname "$0")/../.." || exit 1
trellis=$TRELLIS_BUILD/trellis
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HOME=$scratch
unset TRELLIS_MODEL_PATH HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_HOME XDG_CACHE_HOME TORCH_HOME
failed=0

fault() {
	echo "$*"
	failed=1
}

# expect STATUS PATTERN ARGUMENT...: stdout and stderr together have a line that matches the extended regular expression.
expect() {
	local status=$1 pattern=$2 got
	shift 2
	"$trellis" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
	got=$?
	[ $got = "$status" ] || fault "trellis $*: exit status $got, wanted $status: $(head -n 3 "$scratch/err")"
	cat "$scratch/out" "$scratch/err" | grep -qE -- "$pattern" ||
		fault "trellis $*: no line matches '$pattern': $(head -n 3 "$scratch/err")"
	[ "$(wc -l <"$scratch/err")" -le 1 ] || fault "trellis $*: more than one line of error"
}

expect 2 '^trellis: a command is missing' # no argument at all
expect 0 '^usage: trellis COMMAND' --help
expect 0 '^usage: trellis COMMAND' help
expect 0 '^trellis [0-9]+\.[0-9]+' --version
expect 2 '^trellis: there is no command "fly"' fly
expect 2 '^trellis: there is no command "fly"' help fly
commands=$("$trellis" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
[ -n "$commands" ] || fault "trellis --help lists no commands"
for command in $commands; do
	expect 0 "^usage: trellis $command" help "$command"
	expect 0 "^usage: trellis $command" "$command" --help
	expect 2 "^trellis $command: unrecognized option '--no-such-option'" "$command" --no-such-option
done

expect 1 '^trellis inspect: nowhere: no such directory$' inspect nowhere
expect 1 '^trellis inspect: org/name: not in the Hugging Face cache ' inspect org/name
expect 1 'not a model: it has no pipeline.json' inspect "$scratch"
expect 2 'one model at a time' inspect a b
expect 1 '^FAIL  model +nowhere: no such directory' doctor --model nowhere

# A number is a whole argument and in its range.
for command in bench check "generate x.png"; do
	for threads in 4294967297 2x 0 -1 '' 99999999999999999999; do
		# shellcheck disable=SC2086
		expect 2 '--threads .*: wanted a number from 1 to 4096' $command --threads "$threads"
	done
done
expect 2 '--threads 2x is not a number' worker --threads 2x
expect 2 '--voxels 100x: wanted 10..1000000' bench --voxels 100x

model=tests/golden/e2e
expect 0 '^nothing is wrong$' inspect $model
expect 0 '^note: makes simple objects' inspect # the embedded model says what it can do
expect 0 '^    F[0-9]+ +\[[0-9, ]+\] input_layer.weight$' inspect --tensors $model
expect 0 '^ok    device     cpu: .* computes what the oracle computes' doctor --model $model
expect 0 '^ok    model ' doctor --model $model
mkdir "$scratch/giant" && cp -rL $model/. "$scratch/giant" && chmod -R u+w "$scratch/giant" || exit 1
jq '.use_swiglu_ffn = true' $model/dinov2/config.json >"$scratch/giant/dinov2/config.json"
expect 1 '^fault: image_cond_model: .*SwiGLU .* is not supported' inspect "$scratch/giant"
"$trellis" inspect $model >/dev/full 2>"$scratch/err"
[ $? = 1 ] && grep -q '^trellis inspect: cannot write the output: No space left' "$scratch/err" ||
	fault "trellis inspect to a full disk: $(cat "$scratch/err")"

# Threads spin for a short while only, unless the user has said how long.
# spins PATTERN ASSIGNMENT...: with these in the environment, a job's own environment has a line that matches, and one only.
spins() {
	local pattern=$1 job lines=
	shift
	env -u GOMP_SPINCOUNT -u OMP_WAIT_POLICY "$@" "$trellis" generate --quiet --steps 1000 --model $model \
		$model/input.png -o "$scratch/spin.glb" >/dev/null 2>&1 &
	job=$!
	for _ in $(seq 100); do
		sleep 0.1
		lines=$(tr '\0' '\n' <"/proc/$job/environ" | grep -E '^(GOMP_SPINCOUNT|OMP_WAIT_POLICY)=')
		echo "$lines" | grep -qxE "$pattern" && break
	done
	[ "$(cat "/proc/$job/comm")" = trellis ] || fault "the program is called $(cat "/proc/$job/comm")"
	kill $job
	wait $job 2>/dev/null
	echo "$lines" | grep -qxE "$pattern" && [ "$(echo "$lines" | wc -l)" = 1 ] || fault "with $*: '$lines' is not '$pattern'"
}
spins 'GOMP_SPINCOUNT=[1-9][0-9]*'
spins 'GOMP_SPINCOUNT=7' GOMP_SPINCOUNT=7
spins 'OMP_WAIT_POLICY=active' OMP_WAIT_POLICY=active

# -L: a copy that may be damaged must never lead back to the original through a link.
mkdir "$scratch/m" && cp -rL $model/. "$scratch/m" && chmod -R u+w "$scratch/m" || exit 1
file=$(ls "$scratch"/m/ckpts/slat_dec_mesh*.safetensors)
[ -f "$file" ] || { fault "$model has no mesh decoder"; exit 1; }
truncate -s -2 "$file"
expect 1 '^fault: slat_decoder_mesh: .*slat_dec_mesh.*: truncated: ' inspect "$scratch/m"
expect 1 '^FAIL  model .*truncated' doctor --model "$scratch/m"
rm "$file"
expect 1 '^fault: slat_decoder_mesh: .*safetensors: No such file' inspect "$scratch/m"
exit $failed
