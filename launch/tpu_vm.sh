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
#   --slices 100              slices that are requested at most, one after each preemption
#   --wait 30                 seconds between queries of a slice that is not ready
#   --project PROJECT --account EMAIL --network NAME --labels k=v,..    of the slice (default: gcloud's)
#   --keep                    keep the slice when the run is complete
#   --detach                  do all of this from a small machine of Google's, NAME-launcher, which deletes itself at the end
#   --machine e2-small        its kind
#   --unattended              delete the slice also when giving up (what NAME-launcher does)
#   --dry_run                 print the commands for a slice that does not exist yet, without running them
#
# Ctrl-C leaves the slice and the training on it as they are. A second call uses the existing slice, and follows
# a training that is in progress. But only who runs this requests another slice after a preemption: with --detach this
# terminal may be closed. NAME-launcher's service account (--account) needs the roles tpu.admin and
# iam.serviceAccountUser, and the right to delete the machine; its log is gs://BUCKET/RUN/launch/launch.log.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

name="" zone="" type="" workdir="" config="" data="" version="" tier=spot tries=5 slices=100 wait=30
keep="" detach="" unattended="" machine=e2-small
project="" account="" network="" labels=""
options="name zone type workdir data version tier tries slices wait project account network labels machine"
flags="keep detach unattended"
read_options "$@"
need name zone type workdir config
[[ $workdir == gs://* ]] || refuse "--workdir $workdir: must be gs://BUCKET/RUN, since a preempted slice loses its disks"

need_number tries slices wait
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

pack() { # pack WORD..: this project without its runs and data, and words that are ended by zero bytes
  printf '%s\0' "$@" >"$temporary/words"
  [ -z "$dry_run" ] || echo "# $temporary/words: ${*@Q}"
  run tar czf "$temporary/jax_itm.tgz" --exclude-vcs --exclude=./.venv --exclude=./runs --exclude=./data --exclude=./.cache .
}

# Leaves the work to a machine of Google's, which starts with launch/tpu_launcher.sh.
detach() {
  local word words=() folder=${workdir%/}/launch launcher=$name-launcher
  for word in "$@"; do [ "$word" = --detach ] || words+=("$word"); done
  pack "${words[@]}"
  run gcloud storage cp "$temporary/jax_itm.tgz" "$folder/jax_itm.tgz"
  run gcloud storage cp "$temporary/words" "$folder/arguments"
  run gcloud compute instances create "$launcher" "${place[@]}" --machine-type "$machine" --image-family debian-12 \
    --image-project debian-cloud --scopes cloud-platform --metadata "jax-itm-launch=$folder" \
    --metadata-from-file startup-script=launch/tpu_launcher.sh \
    ${account:+--service-account "$account"} ${network:+--network "$network"} ${labels:+--labels "$labels"} ||
    refuse "$launcher could not be created; if there is one, it is at work: gcloud storage cat $folder/launch.log"
  [ -n "$dry_run" ] || echo "$launcher does the rest; this terminal may be closed
log                   gcloud storage cat $folder/launch.log
stop                  gcloud compute instances delete $launcher --zone $zone, and $by_hand"
}
if [ -n "$detach" ]; then
  detach "$@"
  exit
fi

# From the request to the end of the training: 0 if the run is complete, else the status that ended it.
attempt() {
  obtain
  pack "$data" "$workdir" "$config" "${overrides[@]}" || return 1
  mv "$temporary/words" "$temporary/run.words"
  run gcloud compute tpus tpu-vm scp "$temporary/jax_itm.tgz" "$temporary/run.words" launch/tpu_worker.sh "$name:." "${place[@]}" --worker all || return 1
  on all "bash tpu_worker.sh install" || return
  on all "bash tpu_worker.sh start" || return
  local lines=+1 said=running
  while [ "$said" = running ]; do # a connection may break long before the training ends
    on 0 "bash tpu_worker.sh follow $lines" || true
    said=$(on 0 "bash tpu_worker.sh status") || return 1
    [ -z "$dry_run" ] || return 0
    if [ "$said" = running ]; then lines=20 left=$tries && sleep "$wait"; fi
  done
  if [ "$said" != 0 ]; then on all "tail -n 5 jax_itm/train.log" || true; fi # another worker may say why
  return "$said"
}

give_up() { # give_up STATUS WHY
  if [ -n "$unattended" ]; then
    echo "tpu_vm.sh: $2, see above" >&2
    remove || true
  else
    echo "tpu_vm.sh: $2, see above; $name is kept; to delete it: $by_hand" >&2
  fi
  exit "$1"
}

left=$tries known=""
until attempt; do
  status=$?
  if [ "$status" = 2 ]; then give_up 2 "the input was refused"; fi
  sleep "$wait"
  case $(state) in
  READY)
    echo "$name: ended with status $status"
    if [ "$((left -= 1))" -lt 1 ]; then give_up "$status" "failed $tries times"; fi
    ;;
  UNKNOWN) ;;
  *)
    if [ "$((slices -= 1))" -lt 1 ]; then give_up "$status" "preempted too often"; fi
    echo "$name: preempted; starting again" && left=$tries
    ;;
  esac
done
[ -n "$dry_run" ] || echo "run and checkpoints   $workdir"
[ -n "$keep" ] || remove || refuse "$name could not be deleted; try: $by_hand"
