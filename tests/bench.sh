#!/bin/bash
# bench.sh BUILD - run every benchmark in tests/bench/. Compare figures of one run only.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
export TRELLIS_BUILD=$PWD/$build
[ "${build#/}" = "$build" ] || export TRELLIS_BUILD=$build
status=0
for script in tests/bench/*.sh; do
	echo "== $(basename "$script" .sh)"
	bash "$script"
	case $? in
	0) ;;
	77) echo "(skipped)" ;;
	*) status=1 ;;
	esac
done
exit $status
