#!/usr/bin/env bash
# DMD2 on the shapes world without a judge and with each of six, all from one two-step student at one budget: accuracy,
# diversity, motion, flicker, Frechet, seconds a step, memory; and modes of an exactly known mixture. Three to ten minutes
# a judge on one CPU core. Use: tools/reproduce_judges.sh --out DIR [KEY=VALUE ...]; the same command goes on where it
# was ended. Writes DIR/summary.json and DIR/report.html. KEY=VALUE is set for every judge, such as seed=1.
# Environment: JUDGES (which, none among them), TIMES (of the student's steps, such as [1.0, 0.95, 0.9, 0.8]), START_STEPS,
# TEACHER_STEPS (0: the teacher is not measured), CLIPS.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} == --out && -n ${2:-} ]] || { echo "use: $0 --out DIR [KEY=VALUE ...]" >&2; exit 2; }
out=$2
shift 2
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}
clips=${CLIPS:-96}
teacher_steps=${TEACHER_STEPS:-50}
times=${TIMES:-[1.0, 0.9]}
commas=${times//[^,]/}
read -ra judges <<< "${JUDGES:-none gan teacher latent motion pixels cross}"
declare -A configs=(
  [none]=shapes_dmd2 [gan]=shapes_dmd2_gan [teacher]=shapes_dmd2_judge_teacher [latent]=shapes_dmd2_judge_latent
  [motion]=shapes_dmd2_judge_motion [pixels]=shapes_judge_pixels [cross]=shapes_judge_cross
)
for name in "${judges[@]}"; do
  [[ -v configs[$name] ]] || { echo "no judge $name; known: ${!configs[*]}" >&2; exit 2; }
done
measured() {  # NAME MODEL [OPTION ...]: once
  [[ -s $out/$1/eval.json ]] || "$vdistill" eval "$2" --clips "$clips" --json "$out/$1/eval.json" "${@:3}"
}

[[ -d $out/start/student ]] ||
  "$vdistill" train vdistill/assets/demo.yaml --out "$out/start" --set train.steps="${START_STEPS:-100}" method.times="$times"
for name in "${judges[@]}"; do
  [[ -d $out/$name/student ]] ||
    "$vdistill" train "configs/video/${configs[$name]}.yaml" --out "$out/$name" \
      --set method.start="$out/start" method.times="$times" method.steps=$((${#commas} + 1)) method.critic_per_student=2 data.open=0.3 \
      optim.lr=1e-5 optim.critic_lr=1e-4 optim.warmup=10 optim.ema=0.98 \
      train.steps=450 train.batch=8 train.precision=bf16 train.checkpoint_every=50 validation.every=0 "$@"
  measured "$name" "$out/$name"
done
measured start "$out/start"
(( teacher_steps == 0 )) || measured teacher50 shapes --steps "$teacher_steps" --guidance 2
[[ -s $out/mixture.json ]] ||
  PYTHONPATH=. "$python" tools/bench_methods.py --only dmd2 dmd2_gan judges dmd2_four dmd2_four_gan --json "$out/mixture.json"
PYTHONPATH=. "$python" tools/judges_summary.py "$out"
PYTHONPATH=. "$python" tools/judges_page.py "$out"
