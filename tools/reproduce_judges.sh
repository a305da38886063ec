#!/usr/bin/env bash
# The shapes teacher distilled at one budget without a judge and with each: accuracy, diversity, motion, Frechet, seconds.
# About 20 minutes a judge on one CPU core. Use: tools/reproduce_judges.sh --out DIR [KEY=VALUE ...]; run it again to go
# on. What follows is set in every config, such as train.steps=300 for a quick look.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} == --out && -n ${2:-} ]] || { echo "use: $0 --out DIR [KEY=VALUE ...]" >&2; exit 2; }
out=$2
shift 2
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}
declare -A configs=(
  [none]=shapes_dmd2 [gan]=shapes_dmd2_gan [teacher]=shapes_dmd2_judge_teacher [latent]=shapes_dmd2_judge_latent
  [motion]=shapes_dmd2_judge_motion
)
for name in none gan teacher latent motion; do
  "$vdistill" train "configs/video/${configs[$name]}.yaml" --out "$out/$name" validation.every=0 "$@"
  "$vdistill" eval "$out/$name" --clips 96 --json "$out/$name/eval.json"
done
"$python" tools/judges_summary.py "$out"
