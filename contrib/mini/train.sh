#!/bin/sh
# Train trellis-mini further on one CUDA GPU with PyTorch, about half an hour of a 140 GB card (--objects 40000 fits 80 GB):
# continue from the shipped model, keep both auto-encoders, measure on held-out objects.
#
#   contrib/mini/train.sh [SEED] [WORK_DIR]       a new SEED makes new objects; results in WORK_DIR (default: ./mini-run)
#
# Nothing is written into the source tree: look at WORK_DIR/report, then copy WORK_DIR/model over engine/mini.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seed=${1:-100}
work=${2:-mini-run}
mkdir -p "$work"
work=$(cd "$work" && pwd)
export MINI_BUILD="$work/build" PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
cd "$here"

python3 export.py --back ../../engine/mini "$work/start"
# the shipped decoders come without their encoders: train those against the decoders as they are
python3 train.py ssvae:120,slatvae:240 --encoders 1 --inp "$work/start" --out "$work/start" --seed "$seed" --objects 30000
# two calls of about ten minutes; the second goes on exactly where the first stopped
python3 train.py ssflow:@570:0-0.6 --inp "$work/start" --out "$work/ck" --state "$work/state" --seed "$seed"
python3 train.py ssflow:@400:0.6-1,slatflow:@640 --inp "$work/start" --out "$work/ck" --state "$work/state" --seed $((seed + 1))
cp -n "$work"/start/*.pt "$work/ck/" || true
python3 export.py "$work/ck" "$work/model"
python3 evaluate.py "$work/model" "$work/report" --ae "$work/start" --sweep 1
