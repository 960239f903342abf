#!/bin/bash
# watch.sh MOUNT [COMMAND [ARGUMENT]...] - run COMMAND with every mesh that appears in MOUNT/out (without one: print its
# name). A mesh appears whole, with exactly one event, so nothing has to be waited for or checked. Ends when the mount does.
set -eu
[ $# -ge 1 ] || { echo "usage: watch.sh MOUNT [COMMAND [ARGUMENT]...]" >&2; exit 2; }
mount=${1%/}
shift
command=("${@:-echo}")

# New names come with close_write, replaced ones with moved_to.
inotifywait --quiet --monitor --recursive --event close_write,moved_to --format '%w%f' "$mount/out" |
	while IFS= read -r path; do
		case $path in
		*.glb) "${command[@]}" "$path" </dev/null ;;
		*.error.txt) printf '%s: %s\n' "$path" "$(cat "$path")" >&2 ;;
		esac
	done
