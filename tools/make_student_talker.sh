#!/usr/bin/env bash
# How the shipped student of the talker world is made: three passes of the teacher into one that is told its scales, that
# into four steps (app/demo_talk.py), export in half precision; six and two steps and the report come along.
# About two and a half hours of one CPU core (bf16). Use: tools/make_student_talker.sh [RUN] [OUT]; run it again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/demo_talk}
out=${2:-$run/export}
vdistill=${VDISTILL:-.venv/bin/vdistill}

"$vdistill" demo talk --minutes 600 --out "$run"
rm -rf "$out"
"$vdistill" export "$run/ours4" "$out" --to diffusers --dtype bfloat16
echo "to ship it: rm -rf vdistill/assets/student_talker && cp -r $out vdistill/assets/student_talker"
