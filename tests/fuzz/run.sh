#!/bin/bash
# run.sh BUILD SECONDS - run each fuzzer in BUILD/fuzz for SECONDS; fail when one finds something.
# A fuzzer writes its first inputs itself (seeds.h); fuzz_NAME also reads the directory that seeds_NAME below names.
# The corpora stay in BUILD/fuzz/corpus, what crashes in BUILD/fuzz/found.
set -u
build=$1 seconds=$2
cd "$(dirname "$0")/../.." || exit 1
# shellcheck disable=SC2034
seeds_image=tests/golden/images
failed=0 ran=0
FUZZ_DIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" trellisfs-fuzz.XXXXXX) || exit 1
export FUZZ_DIR
trap 'rm -rf "$FUZZ_DIR"' EXIT
mkdir -p "$build/fuzz/found"
for program in "$build"/fuzz/fuzz_*; do
	[ -x "$program" ] || continue
	name=$(basename "$program")
	corpus=$build/fuzz/corpus/$name
	mkdir -p "$corpus"
	more=seeds_${name#fuzz_}
	more=${!more:-}
	[ -d "$more" ] || more=
	log=$build/fuzz/$name.log
	if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 \
		-artifact_prefix="$build/fuzz/found/$name." "$corpus" ${more:+"$more"} >"$log" 2>&1; then
		echo "clean   $name: $(grep -oE 'Done [0-9]+ runs in [0-9]+ second' "$log")s, $(ls "$corpus" | wc -l) inputs kept"
	else
		echo "FAILED  $name:"
		tail -n 40 "$log" | sed 's/^/        /'
		failed=$((failed + 1))
	fi
	ran=$((ran + 1))
done
echo "$ran fuzzers, $failed failed"
[ $ran -gt 0 ] && [ $failed = 0 ]
