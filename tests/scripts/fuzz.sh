#!/bin/bash
# fuzz.sh - each fuzzer for ten seconds. Needs clang with libFuzzer's and the sanitizers' runtimes.
set -u
cd "$(dirname "$0")/../.." || exit 1
if ! echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n); int LLVMFuzzerTestOneInput(const char *p,
	unsigned long n) { return !p && n; }' | clang -fsanitize=fuzzer,address -x c -o /dev/null - 2>/dev/null; then
	echo "clang with libFuzzer (Debian: clang, libclang-rt-dev) is not there"
	exit 77
fi
exec make -s --no-print-directory BUILD="$TRELLIS_BUILD" FUZZ_S="${FUZZ_S:-10}" fuzz
