#!/usr/bin/env bash
# How the shipped causal student was made: the shipped teacher learns to see the past alone, its guidance goes into four
# passes, a judge of its own long streams, export in half precision, streams of held-out captions measured, card.
# About three and a half hours of one CPU core (bf16). Use: tools/make_student_shapes_causal.sh [OUT]; run it again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/shapes_long_judged
out=${1:-$run/export}
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}

"$vdistill" train configs/causal/shapes_forcing.yaml --out runs/shapes_forcing
"$vdistill" train configs/causal/shapes_forcing_own.yaml --out runs/shapes_forcing_own
"$vdistill" train configs/causal/shapes_causal_guidance.yaml --out runs/shapes_causal_guidance
"$vdistill" train configs/causal/shapes_long_judged.yaml --out "$run"
rm -rf "$out"
"$vdistill" export "$run" "$out" --to diffusers --dtype bfloat16
"$vdistill" eval "$out" --clips 48 --seconds 60 --json "$run/eval.json"
"$python" tools/model_card.py "$run" "$out"
echo "to ship it: rm -rf vdistill/assets/student_shapes_causal && cp -r $out vdistill/assets/student_shapes_causal"
