#!/bin/bash
# valgrind.sh [TEST...] - tests of the mount (mount_tree, mount_traces) with the daemon in valgrind's memcheck: they pass, and it
# finds no error and no lost block.
: "${TRELLIS_BUILD:?}"
cd "$(dirname "$0")/../.." || exit 1
command -v valgrind >/dev/null || { echo "valgrind is not installed"; exit 77; }
[ $# -gt 0 ] || set -- mount_tree mount_traces
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
gcc -D_GNU_SOURCE -shared -fPIC -o "$scratch/shim.so" tests/valgrind_shim.c -ldl || exit 1
ln -s "$TRELLIS_BUILD/tests" "$TRELLIS_BUILD/trellis" "$scratch/"
cat >"$scratch/trellisfs" <<S
#!/bin/bash
export LD_PRELOAD=$scratch/shim.so VALGRIND_SHIM_SELF=$TRELLIS_BUILD/trellisfs
exec valgrind -q --leak-check=full --errors-for-leak-kinds=definite,possible --log-file=$scratch/log.%p $TRELLIS_BUILD/trellisfs "\$@"
S
chmod +x "$scratch/trellisfs"
for test in "$@"; do
	if TRELLIS_BUILD=$scratch bash "tests/scripts/$test.sh"; then echo "$test passed"; else failed=1; fi
done
daemons=$(find "$scratch" -name 'log.*' | wc -l)
cat "$scratch"/log.* >"$scratch/all"
grep -v '^$' "$scratch/all" && failed=1
echo "$daemons processes, $(grep -c . "$scratch/all") lines of complaint"
[ "$daemons" -gt 0 ] && exit $failed
