#!/bin/bash
# apart.sh [OPTION OF unshare...] -- COMMAND... - run the command in a mount namespace of its own. It lets go of the mounts of ours
# that are there: as long as any namespace has one, its daemon cannot end, wherever it is unmounted.
options=()
while [ "$1" != -- ]; do
	options+=("$1")
	shift
done
# shellcheck disable=SC2016 # the inner shell's
exec unshare -m "${options[@]}" bash -c '
	while read -r _ path type _; do
		[ "$type" != fuse.trellisfs ] || umount -l "$(printf %b "$path")" 2>/dev/null
	done </proc/self/mounts
	shift
	exec "$@"' - "$@"
