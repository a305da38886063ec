#!/usr/bin/env bash
# How the shipped teacher was made: train, export in half precision, measure on held-out captions, write its card.
# About three and a half hours of one CPU core (bf16). Use: tools/make_teacher_shapes.sh [RUN] [OUT]; run it again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/teacher_shapes_last}
out=${2:-runs/teacher_shapes_last/export}
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}

"$vdistill" train configs/video/shapes_teacher.yaml --out runs/teacher_shapes
"$vdistill" train configs/video/shapes_teacher_more.yaml --out runs/teacher_shapes_more
"$vdistill" train configs/video/shapes_teacher_more.yaml --out "$run" \
    --set family.path=runs/teacher_shapes_more --set train.steps=4600
rm -rf "$out"
"$vdistill" export "$run" "$out" --to diffusers --dtype float16
"$vdistill" eval "$out" --clips 256 --steps 50 --guidance 2 --json "$run/eval.json"
"$python" tools/model_card.py "$run" "$out"
echo "to ship it: rm -rf vdistill/assets/teacher_shapes && cp -r $out vdistill/assets/teacher_shapes"
