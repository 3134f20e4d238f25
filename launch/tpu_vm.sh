#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice: gets one, installs, runs on all its workers, follows worker 0's log, and
# does so again after each preemption until the run is done; then it gives the slice back.
#
#   ./launch/tpu_vm.sh --name NAME --zone ZONE --type v5litepod-32 --workdir gs://BUCKET/RUN CONFIG[:ARG] [--config.x=y ..]
#
#   --data gs://BUCKET/data   prepared data sets, copied to every worker (default: CONFIG is prepared there)
#   --version RUNTIME         of the TPU's software (default: v2-alpha-tpuv5-lite)
#   --tier spot               or guaranteed, reserved (default: spot)
#   --tries 5                 starts after failures that were no preemption (default: 5)
#   --wait 30                 seconds between looks at a slice that is not there yet
#   --keep yes                leaves the slice when the run is done
#   --dry_run                 prints the commands for a slice that is not there yet, and runs none
#
# A second call goes on: it takes the slice that is there and follows a training that is under way.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

name="" zone="" type="" workdir="" config="" data="" version=v2-alpha-tpuv5-lite tier=spot tries=5 wait=30 keep=""
options="name zone type workdir data version tier tries wait keep"
read_options "$@"
need name zone type workdir config
[[ $workdir == gs://* ]] || refuse "--workdir $workdir: must be gs://BUCKET/RUN, since a preempted slice loses its disks"

slice=(gcloud compute tpus queued-resources)
place=(--zone "$zone" --quiet)
on() { # on WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker "$1" --command "$2"
}
state() {
  "${slice[@]}" describe "$name" "${place[@]}" --format 'value(state.state)' 2>/dev/null || true
}
remove() { run "${slice[@]}" delete "$name" "${place[@]}" --force; }
create() {
  run "${slice[@]}" create "$name" "${place[@]}" --node-id "$name" --accelerator-type "$type" --runtime-version "$version" "--$tier"
}

# Waits until the slice is there; makes it anew where it was preempted or never was.
obtain() {
  if [ -n "$dry_run" ]; then
    create
    return
  fi
  local now seen=""
  while now=$(state) && [ "$now" != ACTIVE ]; do
    [ "$now" = "$seen" ] || echo "$name: ${now:-not there yet}"
    seen=$now
    case $now in
    "") create || refuse "$name: gcloud could not ask for it" ;;
    FAILED | SUSPENDED) remove ;;
    *) sleep "$wait" ;;
    esac
  done
}

train="--config $(printf '%q ' "$config" "${overrides[@]}") --workdir $(printf %q "$workdir")"
if [ -n "$data" ]; then
  bring="mkdir -p data && gcloud storage rsync --recursive $(printf %q "${data%/}") data"
else
  bring=".venv/bin/python -m jax_itm prepare --config $(printf '%q ' "$config" "${overrides[@]}")--data_dir data"
fi
# Python 3.11 comes with uv; the images have 3.10.
install="mkdir -p jax_itm && tar xzf jax_itm.tgz -C jax_itm && cd jax_itm && python3 -m pip install --quiet --user uv"
install+=" && export PATH=\$PATH:\$HOME/.local/bin && . launch/env.sh && make_env tpu,gcs && $bring"
# A training that is under way is left alone.
start="cd jax_itm && if ! kill -0 \$(cat train.pid) 2>/dev/null; then rm -f train.status; nohup bash -c '"
start+=".venv/bin/python -m jax_itm train ${train//\'/\'\\\'\'} --config.data.data_dir=data >>train.log 2>&1; echo \$? >train.status"
start+="' >/dev/null 2>&1 & echo \$! >train.pid; fi"
follow="cd jax_itm && tail -n +1 -F --pid=\$(cat train.pid) train.log"

# One slice's life: 0 when the run is done, else what the training, or the way to it, ended with.
attempt() {
  obtain
  run tar czf "$bundle" --exclude-vcs --exclude=./.venv --exclude=./runs --exclude=./data --exclude=./.cache .
  run gcloud compute tpus tpu-vm scp "$bundle" "$name:jax_itm.tgz" "${place[@]}" --worker all || return
  on all "$install" || return
  on all "$start" || return
  on 0 "$follow" || true # the connection may break off; the status tells
  local status
  status=$(on 0 "cat jax_itm/train.status" || true)
  [ -z "$dry_run" ] || return 0
  return "${status:-1}"
}

bundle=$(mktemp -u -t jax_itm-XXXXXX.tgz) left=$tries
trap 'rm -f "$bundle"' EXIT
until attempt; do
  status=$?
  if [ "$status" = 2 ]; then
    refuse "training refused its input, see above; $name is kept: ${slice[*]} delete $name --zone $zone --force"
  fi
  sleep "$wait"
  if [ "$(state)" != ACTIVE ]; then
    echo "$name: preempted; once more"
    left=$tries
  else
    [ "$((left -= 1))" -gt 0 ] || refuse "training failed $tries times, see above; $name is kept"
    echo "$name: ended with status $status; once more"
  fi
done
[ -n "$keep" ] || remove
[ -n "$dry_run" ] || echo "run and checkpoints   $workdir"
