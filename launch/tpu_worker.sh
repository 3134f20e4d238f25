#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on each worker of a slice. It has copied there, into the home directory: this script, the
# project (jax_itm.tgz) and the words of the run (run.words, each ended by a zero byte: DATA WORKDIR CONFIG [--config.x=y ..]).
#
#   tpu_worker.sh install         the environment and the data sets
#   tpu_worker.sh start           starts the training, which does not end with the connection
#   tpu_worker.sh run             the training itself, in the foreground
#   tpu_worker.sh status          "running", or the exit status of the training
#   tpu_worker.sh follow LINES    shows its log until it ends
#
# A training that is in progress is left alone by all of them, and so is its code.
set -euo pipefail
mkdir -p "$HOME/jax_itm"
cd "$HOME/jax_itm"
mapfile -d "" -t words <"$HOME/run.words"
data=${words[0]} workdir=${words[1]} config=("--config" "${words[@]:2}")

is_running() { [ -e train.pid ] && kill -0 "$(<train.pid)" 2>/dev/null; }

case $1 in
install)
  if is_running; then exit; fi
  tar xzf "$HOME/jax_itm.tgz"
  python3 -m pip install --quiet --user uv # it brings Python 3.11; the images have 3.10
  export PATH=$PATH:$HOME/.local/bin
  # shellcheck source=launch/env.sh
  . launch/env.sh
  make_env tpu,gcs
  if [ -n "$data" ]; then
    mkdir -p data
    gcloud storage rsync --recursive "${data%/}" data
  else
    .venv/bin/python -m jax_itm prepare "${config[@]}" --data_dir data
  fi
  ;;
start)
  if is_running; then exit; fi
  if [ -e train.log ]; then cat train.log >>earlier.log; fi
  rm -f train.status
  nohup bash "$HOME/tpu_worker.sh" run >/dev/null 2>&1 </dev/null &
  echo $! >train.pid
  ;;
run)
  status=0
  .venv/bin/python -m jax_itm train "${config[@]}" --workdir "$workdir" --config.data.data_dir=data >train.log 2>&1 || status=$?
  echo "$status" >train.status
  ;;
status) if is_running; then echo running; else cat train.status; fi ;;
follow) tail -n "$2" -F --pid="$(<train.pid)" train.log ;;
esac
