#!/usr/bin/env bash
# From a fresh machine to a retrieval table: environment, data, training, evaluation, report.
#
#   ./launch/local.sh [CONFIG[:ARG]] [--config.x=y ..]        default: configs/dias_scenes.py
#   SPLIT=dev ./launch/local.sh configs/dias_f8k.py --config.data.source=DIR    where there is no test split
#
# A second call reuses the environment and goes on with the run where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

config=configs/dias_scenes.py
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  config=$1
  shift
fi
run=runs/$(run_name "$config")

make_env ""
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
jax_itm() { .venv/bin/python -m jax_itm "$@"; }

jax_itm prepare --config "$config" "$@"
jax_itm train --config "$config" --workdir "$run" "$@"
jax_itm evaluate --workdir "$run" --split "${SPLIT:-test}" --bag_of_words --out "$run/result.json" >/dev/null
echo
jax_itm report "$run" --out "$run/report.png"
cat <<EOF

run and checkpoints   $run
result                $run/result.json
figure                $run/report.png
logs                  $run/metrics.jsonl, $run/tensorboard
in Python             import jax_itm; matcher = jax_itm.load("$run")
EOF
