#!/bin/bash
# wait.sh MOUNT PICTURE [FOLDER] - turn one picture into a mesh and bring it to FOLDER (default: this one).
set -eu
[ $# -ge 2 ] || { echo "usage: wait.sh MOUNT PICTURE [FOLDER]" >&2; exit 2; }
mount=${1%/} picture=$2 folder=${3:-.}
trellis=${TRELLIS:-trellis}

input=$mount/in/${picture##*/}
cp "$picture" "$input"
# Prints the files made, one a line; ends with status 1 and the reason if the picture cannot become a mesh.
results=$("$trellis" wait --timeout 3600 "$input")
while IFS= read -r file; do
	cp "$file" "$folder/"
	echo "$folder/${file##*/}"
done <<<"$results"
