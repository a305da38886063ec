#!/usr/bin/env bash
# FADA's ablations (arXiv 2412.16915) on the talker world: A1 passes, A2 tokens, A4 supervision, A7 long clips, A8 masks.
# Our reconstruction: FADA has no public code, its teacher and its data are others, and so are its metrics.
# Use: [TEACHER=MODEL STEPS=N FEW=N CLIPS=N LENGTH=S] tools/reproduce_fada.sh --out DIR [ABLATION ...]; run it again to
# go on. SET="KEY=VALUE ..." is set in every config. 21 runs for all; on one CPU core about 3 s a step (estimated), so
# STEPS=100 FEW=50 is a look of two hours.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} == --out && -n ${2:-} ]] || { echo "use: $0 --out DIR [A1 A2 A4 A7 A8]" >&2; exit 2; }
out=$2
shift 2
asked=" ${*:-A1 A2 A4 A7 A8} "
teacher=${TEACHER:-talker}
steps=${STEPS:-1000}
few=${FEW:-500}
vdistill=${VDISTILL:-.venv/bin/vdistill}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

run() { # NAME CONFIG START STEPS KEY=VALUE ...: a run that is finished is left alone
  local name=$1 config=$2 start=$3 count=$4
  shift 4
  [[ -d $out/$name/student ]] && return
  "$vdistill" train "$config" --out "$out/$name" "name=$name" "family.path=$start" "train.steps=$count" \
    validation.every=0 train.checkpoint_every=50 ${SET:-} "$@"
}
guided() { run "$1" configs/avatar/talker_scales.yaml "$teacher" "$steps" "${@:2}"; }
fewer() { run "$1" configs/avatar/talker_scales_6.yaml "$2" "$few" "${@:3}"; }
wants() { [[ $asked == *" $1 "* ]]; }
plain="method.supervision=null"

guided scales "$plain"
if wants A1 || wants A7 || wants A8; then fewer six "$out/scales"; fi
if wants A1; then
  sed '/^  conditions:/d; s/^  kind: .*/  kind: joint\n  conditions: {ref+audio: {usual: 2.0, most: 4.0}}/' \
    configs/avatar/talker_scales.yaml >"$out/joint.yaml"
  sed '/^  conditions:/d; s/^  kind: .*/  kind: joint\n  conditions: {ref+audio: {usual: 2.0, most: 4.0}}/' \
    configs/avatar/talker_scales_6.yaml >"$out/joint_6.yaml"
  run joint "$out/joint.yaml" "$teacher" "$steps" "$plain"
  run joint_six "$out/joint_6.yaml" "$out/joint" "$few"
  fewer unguided_six "$teacher" scales.tokens=none scales.conditions.ref.usual=1.0 scales.conditions.audio.usual=1.0
fi
if wants A2; then
  for mode in fixed adaln both; do guided "tokens_$mode" "$plain" "scales.tokens=$mode"; done
  guided tokens_none "$plain" scales.tokens=none scales.rate=1
  for count in 1 8; do guided "tokens_token_$count" "$plain" "scales.count=$count"; done
fi
if wants A4; then
  s=method.supervision
  for target in raw delta unit; do guided "data_${target}_region" "$s.target=$target" "$s.smooth=0" "$s.replaces=0"; done
  for balance in const by_quality disagreement; do
    name=$balance
    [[ $balance == const ]] && balance=
    guided "data_delta_$name" "$s.balance=[$balance]" "$s.smooth=0" "$s.replaces=0"
  done
  guided data_delta_gradnorm "$s.smooth=0" "$s.replaces=0" "$s.gradnorm=0.3"
  guided data_only "$s.target=raw" "$s.balance=[]" "$s.smooth=0"
  guided data_delta_slow
  guided data_delta_slow_quality scales.quality=true
fi
"$python" tools/fada_table.py "$out" --teacher "$teacher" --clips "${CLIPS:-48}" --seconds "${LENGTH:-60}"
