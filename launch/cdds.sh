#!/usr/bin/env bash
# CDDS and its ablation beside a plain contrast of the same encoders, over several seeds, ending in the
# table of recalls, that of S and of figure 5's ratio, and their figures.
#
#   ./launch/cdds.sh [scenes|f8k]                         two hours on 2 CPU cores
#   SEEDS="0 1 2" ROWS="baseline paper practical" ./launch/cdds.sh scenes
#
# Rows: baseline (InfoNCE of pooled tokens) | paper | practical | and practical without decoupling |
# modal (L_m) | fit (L_f, L_x) | noise | sampling (a contrast instead) | both (decoupling and sampling).
# Data must be prepared. Finished runs are kept.
set -euo pipefail
cd "$(dirname "$0")/.."

data=scenes
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  data=$1
  shift
fi
python=${PYTHON:-.venv/bin/python}
config=configs/cdds_$data.py
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
case $data in f8k) split="dev" ;; *) split="test" ;; esac

runs=() decoupled=()
for row in ${ROWS:-baseline paper practical decoupling modal fit noise sampling both}; do
  case $row in
  baseline) argument=:method=info_nce ;;
  paper | practical) argument=:preset=$row ;;
  *) argument=:without=$row ;;
  esac
  for seed in ${SEEDS:-0 1 2}; do
    run=runs/cdds/$data-$row-$seed
    runs+=("$run")
    if [ "$row" != baseline ]; then decoupled+=("$run"); fi
    [ -e "$run/result.json" ] && continue
    "$python" -m jax_itm train --config "$config$argument" --workdir "$run" --config.seed="$seed" \
      --config.name="cdds_$data-$row" "$@"
    "$python" -m jax_itm evaluate --workdir "$run" --split "${SPLIT:-$split}" --out "$run/result.json"
  done
done
"$python" -m jax_itm report "${runs[@]}" --out "runs/cdds/$data.png"
[ ${#decoupled[@]} -eq 0 ] || "$python" -m jax_itm semantics "${decoupled[@]}" --split "${SPLIT:-$split}" --out "runs/cdds/$data-semantics.png"
