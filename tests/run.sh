#!/bin/bash
# run.sh BUILD check|all - run the test programs, then (all) the scripts in tests/; print a line each and a summary.
# A script exits 77 after printing why when it cannot run on this machine: it is then listed as skipped by name.
set -u
export OMP_WAIT_POLICY=passive # tests run beside other work; spinning threads would starve it
build=$1 what=$2
cd "$(dirname "$0")/.." || exit 1
export TRELLIS_BUILD=$PWD/$build
[ "${build#/}" = "$build" ] || export TRELLIS_BUILD=$build
passed=0 failed=() skipped=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # name, command...
	local name=$1 start=$SECONDS status
	shift
	"$@" >"$log" 2>&1 </dev/null
	status=$?
	case $status in
	0) passed=$((passed + 1)) && printf 'ok      %-34s %3d s\n' "$name" $((SECONDS - start)) ;;
	77) skipped+=("$name: $(tail -n 1 "$log")") && printf 'skipped %-34s %s\n' "$name" "$(tail -n 1 "$log")" ;;
	*)
		failed+=("$name")
		printf 'FAILED  %-34s exit status %d\n' "$name" $status
		tail -n 60 "$log" | sed 's/^/        /'
		;;
	esac
}

for program in "$TRELLIS_BUILD"/tests/test_*; do
	[ -f "tests/$(basename "$program").c" ] && run "$(basename "$program")" "$program" --timeout 300
done
if [ "$what" = all ]; then
	for script in tests/scripts/*.sh; do
		[ -f "$script" ] && run "$(basename "$script" .sh)" bash "$script"
	done
fi
for line in ${skipped[@]+"${skipped[@]}"}; do echo "skipped: $line"; done
for line in ${failed[@]+"${failed[@]}"}; do echo "failed: $line"; done
echo "$passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
[ ${#failed[@]} = 0 ] && [ $passed -gt 0 ]
