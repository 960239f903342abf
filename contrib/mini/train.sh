#!/bin/bash
# Train trellis-mini further on one CUDA GPU with PyTorch: continue from the shipped model, keep both auto-encoders, measure on
# held-out objects.
#
#   contrib/mini/train.sh [--minutes N] [SEED] [WORK_DIR] [-- OPTIONS OF train.py]
#
# N (default 30) scales every stage, the number of objects, the learning rate and the evaluation; set-up adds about a minute.
# Try 6 first: it goes the whole way, but a model for use wants 30 and more. SEED, 1 to 898 (default 100): a new one makes new
# objects. All results come into WORK_DIR (default ./mini-run), nothing into the source tree: look at WORK_DIR/report, then copy
# WORK_DIR/model over engine/mini. Stopped or failed, the same command goes on at the first step that is not done.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
minutes=30
if [ "${1:-}" = --minutes ]; then
	minutes=${2:?--minutes wants a number}
	shift 2
fi
seed=100 work=mini-run
if [ $# -gt 0 ] && [ "$1" != -- ]; then seed=$1; shift; fi
if [ $# -gt 0 ] && [ "$1" != -- ]; then work=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi
options=("$@")
if ! [[ $seed =~ ^[1-9][0-9]?[0-9]?$ ]] || [ "$seed" -gt 898 ]; then
	echo "train.sh: seed $seed: wanted 1 to 898" >&2
	exit 2
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)
export MINI_BUILD="$work/build" PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
cd "$here"

of() { awk -v m="$minutes" -v x="$1" 'BEGIN { printf "%d", m * 60 * x + .5 }'; }         # a share of the time, in seconds
scaled() { awk -v m="$minutes" -v x="$1" 'BEGIN { f = m / 30 < 1 ? m / 30 : 1; printf "%d", x * f + 1 }'; }
# what a card holds beside the training itself: 400 objects a GiB, with three pictures each
card=$(python3 -c 'import torch; print(torch.cuda.get_device_properties(0).total_memory >> 30 if torch.cuda.is_available() else 1)')
objects=$(scaled 80000)
[ "$objects" -le $((400 * card)) ] || objects=$((400 * card))
rate=$(awk -v m="$minutes" 'BEGIN { print 6e-4 * (m < 30 ? sqrt(m / 30) : 1) }')         # a short run must not undo a long one
compile=1 sweep=1
if [ "$(of 1)" -lt 900 ]; then compile=0 sweep=0; fi                                     # compiling costs some minutes
echo "$minutes minutes, seed $seed, $objects objects, rate $rate, compile $compile -> $work"

step() { # NAME COMMAND...: once, however often this script is started
	local name=$1
	shift
	[ -e "$work/done/$name" ] && return
	echo "== $name"
	"$@"
	mkdir -p "$work/done"
	touch "$work/done/$name"
}
train() { python3 train.py "$@" --compile $compile --lr "$rate" --lr_slat "$rate" ${options[@]+"${options[@]}"}; }

step start python3 export.py --back ../../engine/mini "$work/start"
# the shipped decoders come without their encoders: train those against the decoders as they are
step encoders train "ssvae:@$(of .1),slatvae:@$(of .26)" --encoders 1 --inp "$work/start" --out "$work/start" --seed "$seed" \
	--objects "$(scaled 30000)"
# the schedule of the structure flow goes over two calls with their own objects; the second goes on where the first stopped
step structure train "ssflow:@$(of .28):0-0.6" --inp "$work/start" --out "$work/ck" --state "$work/state" --seed "$seed" \
	--objects "$objects"
step flows train "ssflow:@$(of .2):0.6-1,slatflow:@$(of .34)" --inp "$work/start" --out "$work/ck" --state "$work/state" \
	--seed $((seed + 1)) --objects "$objects"
cp "$work"/start/ssvae.pt "$work"/start/slatvae.pt "$work/ck/"
step export python3 export.py "$work/ck" "$work/model"
step evaluation python3 evaluate.py "$work/model" "$work/report" --ae "$work/start" --sweep $sweep --n "$(scaled 159)" \
	--bank "$(scaled 8000)"
