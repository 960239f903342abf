#!/bin/bash
# batch.sh MOUNT FOLDER - turn every picture in FOLDER and below into a mesh; the tree appears again in MOUNT/out.
# Exit status 1 when some picture became none; the others still do.
set -eu
[ $# = 2 ] || { echo "usage: batch.sh MOUNT FOLDER" >&2; exit 2; }
mount=${1%/} folder=${2%/}
trellis=${TRELLIS:-trellis}

cp -r "$folder" "$mount/in/"
mapfile -d '' pictures < <(find "$mount/in/${folder##*/}" -type f -iregex '.*\.\(png\|jpe?g\)' -print0)
[ ${#pictures[@]} -gt 0 ] || { echo "batch.sh: no pictures in $folder" >&2; exit 1; }
"$trellis" wait "${pictures[@]}"
