#!/usr/bin/env bash
# DIAS term by term, each row over several seeds, ending in one table and figure.
#
#   ./launch/ablation.sh [CONFIG] [--config.x=y ..]      default: configs/dias_scenes.py
#   SEEDS="0 1 2" ROWS="triplet full" ./launch/ablation.sh
#
# Rows: triplet | dim | inter | intra (the triplet with that one term) | dense (all terms, without the
# sparse selection) | full. Data must be prepared (./launch/local.sh does). Finished runs are kept.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

config=configs/dias_scenes.py
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  config=$1
  shift
fi
name=$(run_name "$config")
python=${PYTHON:-.venv/bin/python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}

off() { for term in "$@"; do printf -- '--config.method.weights.%s=0 ' "$term"; done; }
declare -A change=(
  [triplet]="$(off dim inter intra)" [dim]="$(off inter intra)" [inter]="$(off dim intra)"
  [intra]="$(off dim inter)" [dense]="--config.method.select_on=none" [full]=""
)
runs=()
for row in ${ROWS:-triplet dim inter intra dense full}; do
  for seed in ${SEEDS:-0 1 2}; do
    run=runs/ablation/$name-$row-$seed
    runs+=("$run")
    [ -e "$run/result.json" ] && continue
    # shellcheck disable=SC2086  # the words of a change are its options
    "$python" -m jax_itm train --config "$config" --workdir "$run" --config.seed="$seed" \
      --config.name="$name-$row" ${change[$row]} "$@"
    "$python" -m jax_itm evaluate --workdir "$run" --split "${SPLIT:-test}" --out "$run/result.json"
  done
done
"$python" -m jax_itm report "${runs[@]}" --out "runs/ablation/$name.png"
