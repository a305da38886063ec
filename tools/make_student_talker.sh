#!/usr/bin/env bash
# How the shipped student of the talker world was made, every stage going on from the one before. Three passes of the
# teacher go into one that is told its scales: by the teacher alone, until it answers to them; with clean and damaged
# clips beside the teacher; with nothing but pictures of two, without noise on the past, so that one mouth does not move
# the other; and with all of that in turn, twice. Then four steps, and the mean of both; six and two for the report.
# About four and a half hours of one CPU core (bf16). Use: tools/make_student_talker.sh [RUN] [OUT]; run it again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/talker_student}
out=${2:-$run/export}
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}
alone=(method.supervision=null)
sharp=(method.begin.level=0)               # no noise on the frames a clip goes on from
in_turn=("${sharp[@]}" method.begin.share=0.4 optim.warmup=10 optim.decay=0.5 optim.ema=0.97)
few=("${alone[@]}" "family.path=$run/scales_long/student" method.substeps=4 method.inputs=mix method.begin.share=0.4
    optim.lr=2e-4 optim.warmup=10 optim.decay=0.5 optim.ema=0.96)

stage() { # NAME FROM|- STEPS DUO KEY=VALUE...
    local name=$1 from=$2 steps=$3 duo=$4 start=()
    shift 4
    [ "$from" = - ] || start=("method.start=$run/$from")
    "$vdistill" train vdistill/assets/demo_talk.yaml --out "$run/$name" train.batch=8 "train.steps=$steps" \
        "data.duo=$duo" "${start[@]}" "$@"
}

stage alone - 900 0 "${alone[@]}" method.begin.share=0.3 optim.name=muon optim.lr=1e-3 seed=5
stage alone_low alone 400 0 "${alone[@]}" method.begin.share=0.3 optim.name=muon optim.lr=3e-4 optim.decay=1 \
    optim.ema=0.97 seed=8
stage mixed alone_low 180 0.25 optim.lr=1.5e-4 optim.decay=0.6 optim.ema=0.98 seed=6
stage mixed_long mixed 500 0 optim.decay=0.5 optim.ema=0.98 seed=16
stage mixed_duo mixed_long 110 0.6 optim.lr=1.5e-4 optim.decay=0.5 optim.ema=0.97 seed=26
stage duo mixed_duo 100 1 "${alone[@]}" "${sharp[@]}" method.begin.share=0.3 optim.decay=0.5 optim.ema=0.95 seed=28
stage duo_mixed duo 60 1 "${sharp[@]}" method.begin.share=0.3 optim.warmup=5 optim.decay=0.5 optim.ema=0.93 seed=30
stage scales duo_mixed 240 0.4 "${in_turn[@]}" seed=33
stage scales_long scales 260 0.3 "${in_turn[@]}" seed=43
stage four scales_long 140 0.6 "${few[@]}" "method.times=[1.0, 0.9, 0.75, 0.5]" seed=37
stage six scales_long 80 0.4 "${few[@]}" "method.times=[1.0, 0.94, 0.86, 0.75, 0.6, 0.375]" seed=38
stage two scales_long 120 0.4 "${few[@]}" "method.times=[1.0, 0.75]" seed=39
rm -rf "$run/mean" "$out"
"$python" tools/mean_of_models.py "$run/mean" "$run/four/student=1" "$run/scales_long/student=1"
"$vdistill" export "$run/mean" "$out" --to diffusers --dtype bfloat16
"$vdistill" demo talk --out "$run/report" \
    --students "scales=$run/scales_long" "fast=$run/six" "ours4=$out" "ours2=$run/two"
echo "to ship it: rm -rf vdistill/assets/student_talker && cp -r $out vdistill/assets/student_talker"
