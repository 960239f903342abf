#!/bin/bash
# scale.sh - a million files below FUSE: start, memory, the journal written anew, turns, removal. The state is on a tmpfs.
# SIZES="20000 100000 500000": pictures, each with its result; so twice as many nodes.
build=${TRELLIS_BUILD:-build}
[ -w /dev/shm ] || { echo "no tmpfs at /dev/shm"; exit 77; }
dir=$(mktemp -d /dev/shm/trellisfs-scale.XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
for n in ${SIZES:-20000 100000 500000}; do
	for kind in distinct equal; do
		rm -rf "$dir/state"
		"$build/tests/fs_scale" "$dir/state" "$n" $kind || exit 1
	done
done
