#!/usr/bin/env bash
# How the teacher of the talker world is made: train, export in half precision, make sheets of held-out people.
# About 1.3 hours of one CPU core (bf16). Use: tools/make_teacher_talker.sh [RUN] [OUT]; run it again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/talker_teacher}
out=${2:-$run/export}
vdistill=${VDISTILL:-.venv/bin/vdistill}

"$vdistill" train configs/avatar/talker_teacher.yaml --out "$run" train.steps="${STEPS:-2500}"
rm -rf "$out"
"$vdistill" export "$run" "$out" --to diffusers --dtype bfloat16
echo "sheets and scores of people it never saw: $run/validation"
echo "to ship it: rm -rf vdistill/assets/teacher_talker && cp -r $out vdistill/assets/teacher_talker"
