#!/bin/bash
# lint.sh - what `make lint` looks at: the format of C sources, cppcheck, shellcheck, and the manual pages. A tool that is not
# installed is named; exit status 1 when one that is has found something.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0
mapfile -t sources < <(git ls-files '*.c' '*.h')
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)

# look TOOL COMMAND... - run COMMAND if TOOL is there
look() {
	local tool=$1
	shift
	if ! command -v "$tool" >/dev/null; then
		echo "lint: without $tool, which is not installed"
	elif "$@"; then
		echo "lint: $tool: nothing"
	else
		echo "lint: $tool has found something"
		failed=1
	fi
}

look clang-format clang-format --dry-run --Werror "${sources[@]}"
# The macro error_set is an expression statement and criterion's tests are macros, which cppcheck does not see through.
# By file: two pointers that the callee drops before it returns, and a table of functions taken for a variable.
look cppcheck cppcheck --quiet --error-exitcode=1 --inline-suppr --enable=warning,portability --std=c11 -j2 \
	--suppress=autoVariables:engine/sample_structure.c --suppress=uninitvar:fs/special.c \
	--suppress=missingIncludeSystem --suppress=unknownMacro --suppress=nullPointerOutOfMemory \
	-D_GNU_SOURCE -DTRELLISFS_VERSION='""' -DTRELLISFS_PREFIX='""' -Ikernels -Iengine -Ifs kernels engine fs examples
# SC1091: the sourced library is linted by itself; SC2154: what it sets; SC2140: name="value",other="value" is meant.
look shellcheck shellcheck --severity=warning --exclude=SC1091,SC2154,SC2140 "${scripts[@]}"
look mandoc mandoc -Tlint -Wwarning contrib/man/*.1
exit $failed
