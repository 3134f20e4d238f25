#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice: requests one, installs, runs on all its workers, and follows the log of worker
# 0; repeats this after each preemption until the run is complete; then deletes the slice.
#
#   ./launch/tpu_vm.sh --name NAME --zone ZONE --type v5litepod-32 --workdir gs://BUCKET/RUN CONFIG[:ARG] [--config.x=y ..]
#
#   --data gs://BUCKET/data   prepared data sets, copied to every worker (default: each prepares CONFIG's)
#   --version RUNTIME         the TPU's software (default: the one that Google recommends for the type)
#   --tier spot               or guaranteed, reserved (default: spot)
#   --tries 5                 consecutive failures, other than preemptions, after which to give up
#   --wait 30                 seconds between queries of a slice that is not ready
#   --project PROJECT --account EMAIL --network NAME --labels k=v,..    of the slice (default: gcloud's)
#   --keep                    keep the slice when the run is complete
#   --dry_run                 print the commands for a slice that does not exist yet, without running them
#
# Ctrl-C leaves the slice and the training on it as they are. A second call uses the existing slice, and follows
# a training that is in progress.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

name="" zone="" type="" workdir="" config="" data="" version="" tier=spot tries=5 wait=30 keep=""
project="" account="" network="" labels=""
options="name zone type workdir data version tier tries wait project account network labels" flags=keep
read_options "$@"
need name zone type workdir config
[[ $workdir == gs://* ]] || refuse "--workdir $workdir: must be gs://BUCKET/RUN, since a preempted slice loses its disks"

need_number tries wait
need_program gcloud tar
if [ -z "$version" ]; then # https://cloud.google.com/tpu/docs/runtimes
  case $type in
  v6e*) version=v2-alpha-tpuv6e ;;
  v5p*) version=v2-alpha-tpuv5 ;;
  v5lite*) version=v2-alpha-tpuv5-lite ;;
  *) version=tpu-ubuntu2204-base ;;
  esac
fi

slice=(gcloud compute tpus queued-resources)
place=(--zone "$zone" ${project:+--project "$project"} --quiet)
by_hand="${slice[*]} delete $name --zone $zone${project:+ --project $project} --force"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

on() { # on WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker "$1" --command "$2"
}
query() { # query WORD..: gcloud's answer; NONE if there is no such resource, UNKNOWN if gcloud fails
  if "$@" "${place[@]}" 2>"$temporary/errors"; then return; fi
  if grep -Eq 'NOT_FOUND|was not found' "$temporary/errors"; then
    echo NONE
  else
    cat "$temporary/errors" >&2
    echo UNKNOWN
  fi
}
# The state of the request or, once that is ACTIVE, of its machines: READY, or preempted before the request is.
state() {
  local now
  now=$(query "${slice[@]}" describe "$name" --format 'value(state.state)')
  if [ "$now" = ACTIVE ]; then
    now=$(query gcloud compute tpus tpu-vm describe "$name" --format 'value(state)')
    now=${now/NONE/SUSPENDING}
  fi
  echo "$now"
}
remove() { run "${slice[@]}" delete "$name" "${place[@]}" --force; }
create() {
  run "${slice[@]}" create "$name" "${place[@]}" --node-id "$name" --accelerator-type "$type" --runtime-version "$version" "--$tier" \
    ${account:+--service-account "$account"} ${network:+--network "$network"} ${labels:+--labels "$labels"}
}

# Waits until the slice is ready; creates it if it was preempted or does not exist.
obtain() {
  if [ -n "$dry_run" ]; then
    create
    return
  fi
  local now seen="" troubles=0
  while now=$(state) && [ "$now" != READY ]; do
    [ "$now" = "$seen" ] || echo "$name: ${now/NONE/does not exist yet}"
    seen=$now
    [ "$now" = UNKNOWN ] || known=$tries
    case $now in
    FAILED | UNKNOWN) # refused at once if gcloud fails from the beginning, for example without a project
      [ "$((troubles += 1))" -lt "${known:-1}" ] || refuse "$name: $now, see above; to delete it: $by_hand"
      ;;
    esac
    case $now in
    NONE) create || refuse "$name: gcloud could not request it" ;;
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
# A training that is in progress is left alone, and so is its code.
alive="kill -0 \$(cat train.pid 2>/dev/null) 2>/dev/null"
# uv brings Python 3.11; the images have 3.10.
install="cd jax_itm 2>/dev/null && $alive || { cd && mkdir -p jax_itm && tar xzf jax_itm.tgz -C jax_itm && cd jax_itm"
install+=" && python3 -m pip install --quiet --user uv && export PATH=\$PATH:\$HOME/.local/bin && . launch/env.sh"
install+=" && make_env tpu,gcs && $bring; }"
start="cd jax_itm && if ! $alive; then cat train.log >>earlier.log 2>/dev/null; rm -f train.status; nohup bash -c '"
start+=".venv/bin/python -m jax_itm train ${train//\'/\'\\\'\'} --config.data.data_dir=data >train.log 2>&1; echo \$? >train.status"
start+="' >/dev/null 2>&1 </dev/null & echo \$! >train.pid; fi"
ask="cd jax_itm && if $alive; then echo running; else cat train.status; fi"

# From the request to the end of the training: 0 if the run is complete, else the status that ended it.
attempt() {
  obtain
  run tar czf "$temporary/jax_itm.tgz" --exclude-vcs --exclude=./.venv --exclude=./runs --exclude=./data --exclude=./.cache . || return 1
  run gcloud compute tpus tpu-vm scp "$temporary/jax_itm.tgz" "$name:jax_itm.tgz" "${place[@]}" --worker all || return 1
  on all "$install" || return
  on all "$start" || return
  local lines=+1 said=running
  while [ "$said" = running ]; do # a connection may break long before the training ends
    on 0 "cd jax_itm && tail -n $lines -F --pid=\$(cat train.pid) train.log" || true
    said=$(on 0 "$ask") || return 1
    [ -z "$dry_run" ] || return 0
    if [ "$said" = running ]; then lines=20 left=$tries && sleep "$wait"; fi
  done
  if [ "$said" != 0 ]; then on all "tail -n 5 jax_itm/train.log" || true; fi # another worker may say why
  return "$said"
}

left=$tries known=""
until attempt; do
  status=$?
  if [ "$status" = 2 ]; then refuse "the input was refused, see above; $name is kept; to delete it: $by_hand"; fi
  sleep "$wait"
  case $(state) in
  READY)
    echo "$name: ended with status $status"
    if [ "$((left -= 1))" -lt 1 ]; then
      echo "tpu_vm.sh: failed $tries times, see above; $name is kept; to delete it: $by_hand" >&2
      exit "$status"
    fi
    ;;
  UNKNOWN) ;;
  *) echo "$name: preempted; starting again" && left=$tries ;;
  esac
done
[ -n "$dry_run" ] || echo "run and checkpoints   $workdir"
[ -n "$keep" ] || remove || refuse "$name could not be deleted; try: $by_hand"
