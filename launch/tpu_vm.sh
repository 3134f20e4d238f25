#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice: gets one, installs, runs on all its workers, follows worker 0's log, and
# does so again after each preemption until the run is done; then it gives the slice back.
#
#   ./launch/tpu_vm.sh --name NAME --zone ZONE --type v5litepod-32 --workdir gs://BUCKET/RUN CONFIG[:ARG] [--config.x=y ..]
#
#   --data gs://BUCKET/data   prepared data sets, copied to every worker (default: CONFIG is prepared there)
#   --version RUNTIME         of the TPU's software (default: the one that Google names for the type)
#   --tier spot               or guaranteed, reserved (default: spot)
#   --tries 5                 failures in a row that were no preemption, after which it gives up
#   --wait 30                 seconds between looks at a slice that is not there yet
#   --keep yes                leaves the slice when the run is done
#   --dry_run                 prints the commands for a slice that is not there yet, and runs none
#
# Ctrl-C leaves the slice and its training as they are. A second call goes on: it takes the slice that is there
# and follows a training that is under way.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

name="" zone="" type="" workdir="" config="" data="" version="" tier=spot tries=5 wait=30 keep=""
options="name zone type workdir data version tier tries wait keep"
read_options "$@"
need name zone type workdir config
[[ $workdir == gs://* ]] || refuse "--workdir $workdir: must be gs://BUCKET/RUN, since a preempted slice loses its disks"

whole tries wait
programs gcloud tar
if [ -z "$version" ]; then # https://cloud.google.com/tpu/docs/runtimes
  case $type in
  v6e*) version=v2-alpha-tpuv6e ;;
  v5p*) version=v2-alpha-tpuv5 ;;
  v5lite*) version=v2-alpha-tpuv5-lite ;;
  *) version=tpu-ubuntu2204-base ;;
  esac
fi

slice=(gcloud compute tpus queued-resources)
place=(--zone "$zone" --quiet)
by_hand="${slice[*]} delete $name --zone $zone --force"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

on() { # on WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker "$1" --command "$2"
}
look() { # look WORD..: what gcloud answers; NONE where there is no such thing, UNKNOWN where it cannot tell
  if "$@" "${place[@]}" 2>"$temporary/errors"; then return; fi
  if grep -Eq 'NOT_FOUND|was not found' "$temporary/errors"; then
    echo NONE
  else
    cat "$temporary/errors" >&2
    echo UNKNOWN
  fi
}
# That of the request, and once it is ACTIVE, that of its machines, which are READY, or tell first of a preemption.
state() {
  local now
  now=$(look "${slice[@]}" describe "$name" --format 'value(state.state)')
  if [ "$now" = ACTIVE ]; then
    now=$(look gcloud compute tpus tpu-vm describe "$name" --format 'value(state)')
    now=${now/NONE/SUSPENDING}
  fi
  echo "$now"
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
  local now seen="" troubles=0
  while now=$(state) && [ "$now" != READY ]; do
    [ "$now" = "$seen" ] || echo "$name: ${now/NONE/not there yet}"
    seen=$now
    [ "$now" = UNKNOWN ] || known=$tries
    case $now in
    FAILED | UNKNOWN) # at once where gcloud cannot tell from the beginning: for want of a project, say
      [ "$((troubles += 1))" -lt "${known:-1}" ] || refuse "$name: $now, see above; by hand: $by_hand"
      ;;
    esac
    case $now in
    NONE) create || refuse "$name: gcloud could not ask for it" ;;
    FAILED | SUSPENDED | PREEMPTED | TERMINATED) remove || sleep "$wait" ;;
    *) sleep "$wait" ;;
    esac
  done
  known=$tries
}

train="--config $(printf '%q ' "$config" "${overrides[@]}") --workdir $(printf %q "$workdir")"
if [ -n "$data" ]; then
  bring="mkdir -p data && gcloud storage rsync --recursive $(printf %q "${data%/}") data"
else
  bring=".venv/bin/python -m jax_itm prepare --config $(printf '%q ' "$config" "${overrides[@]}")--data_dir data"
fi
# A training that is under way is left alone, and so is its code.
alive="kill -0 \$(cat train.pid 2>/dev/null) 2>/dev/null"
# Python 3.11 comes with uv; the images have 3.10.
install="cd jax_itm 2>/dev/null && $alive || { cd && mkdir -p jax_itm && tar xzf jax_itm.tgz -C jax_itm && cd jax_itm"
install+=" && python3 -m pip install --quiet --user uv && export PATH=\$PATH:\$HOME/.local/bin && . launch/env.sh"
install+=" && make_env tpu,gcs && $bring; }"
start="cd jax_itm && if ! $alive; then cat train.log >>earlier.log 2>/dev/null; rm -f train.status; nohup bash -c '"
start+=".venv/bin/python -m jax_itm train ${train//\'/\'\\\'\'} --config.data.data_dir=data >train.log 2>&1; echo \$? >train.status"
start+="' >/dev/null 2>&1 </dev/null & echo \$! >train.pid; fi"
ask="cd jax_itm && if $alive; then echo running; else cat train.status; fi"

# One slice's life: 0 when the run is done, else what the training, or the way to it, ended with.
attempt() {
  obtain
  run tar czf "$temporary/jax_itm.tgz" --exclude-vcs --exclude=./.venv --exclude=./runs --exclude=./data --exclude=./.cache . || return 1
  run gcloud compute tpus tpu-vm scp "$temporary/jax_itm.tgz" "$name:jax_itm.tgz" "${place[@]}" --worker all || return 1
  on all "$install" || return
  on all "$start" || return
  local lines=+1 said=running
  while [ "$said" = running ]; do # a connection may break off long before the training ends
    on 0 "cd jax_itm && tail -n $lines -F --pid=\$(cat train.pid) train.log" || true
    said=$(on 0 "$ask") || return 1
    [ -z "$dry_run" ] || return 0
    if [ "$said" = running ]; then lines=20 left=$tries && sleep "$wait"; fi
  done
  if [ "$said" != 0 ]; then on all "tail -n 5 jax_itm/train.log" || true; fi # another worker may tell why
  return "$said"
}

left=$tries known=""
until attempt; do
  status=$?
  if [ "$status" = 2 ]; then refuse "refused its input, see above; $name is kept; to give it back: $by_hand"; fi
  sleep "$wait"
  case $(state) in
  READY)
    echo "$name: ended with status $status"
    if [ "$((left -= 1))" -lt 1 ]; then
      echo "tpu_vm.sh: $tries times, see above; $name is kept; to give it back: $by_hand" >&2
      exit "$status"
    fi
    ;;
  UNKNOWN) ;;
  *) echo "$name: preempted; once more" && left=$tries ;;
  esac
done
[ -n "$dry_run" ] || echo "run and checkpoints   $workdir"
[ -n "$keep" ] || remove || refuse "$name could not be given back: $by_hand"
