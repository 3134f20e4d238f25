#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet, which restarts by itself after each preemption.
#
#   ./launch/gke.sh --name NAME --image REPOSITORY/jax_itm --workdir gs://BUCKET/RUN --data gs://BUCKET/data CONFIG[:ARG] [--config.x=y ..]
#
#   --build yes                 build and push the image first (launch/Dockerfile)
#   --accelerator tpu-v5-lite-podslice --topology 4x8 --hosts 8 --chips 4     the slice: a v5e-32, 4 chips a host
#   --account default           a Kubernetes service account that may read and write the buckets
#   --wait 10                   seconds between queries of the JobSet
#   --dry_run                   print the commands and the JobSet without running anything
#
# kubectl must be configured for the cluster, which needs JobSet (https://jobset.sigs.k8s.io) and a node pool with
# the slice. The bucket of --data, with the prepared data sets, is mounted (Cloud Storage FUSE CSI driver). A second
# call follows the existing JobSet; one that has failed is created again, and resumes from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
. launch/env.sh

# shellcheck disable=SC2034  # they are used by name below
name="" image="" workdir="" config="" data="" build="" wait=10 account=default
# shellcheck disable=SC2034
accelerator=tpu-v5-lite-podslice topology=4x8 hosts=8 chips=4
options="name image workdir data build wait account accelerator topology hosts chips"
read_options "$@"
need name image workdir data config
for option in workdir data; do
  [[ ${!option} == gs://* ]] || refuse "--$option ${!option}: must be in a bucket, gs://.., as a pod loses its disk"
done
need_number hosts chips wait
need_program kubectl ${build:+docker}
bucket=${data#gs://} bucket=${bucket%%/*}

if [ -n "$build" ]; then
  run docker build --platform linux/amd64 --file launch/Dockerfile --build-arg ACCELERATOR=tpu --tag "$image" .
  run docker push "$image"
fi

args=""
for word in train --config "$config" --workdir "$workdir" "${overrides[@]}" "--config.data.data_dir=/buckets/${data#gs://}"; do
  word=${word//\\/\\\\}
  args+=", \"${word//\"/\\\"}\""
done
args="[${args#, }]"
jobset=$(<launch/gke.yaml)
for word in name image account accelerator topology hosts chips bucket args; do
  jobset=${jobset//"\${$word}"/"${!word}"}
done

# The name of the JobSet and its conditions, such as StartupPolicyCompleted, each surrounded by spaces; only spaces
# if there is no JobSet.
conditions() {
  local said
  said=$(run kubectl get jobset "$name" --ignore-not-found --output 'jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}') ||
    refuse "kubectl cannot query $name, see above; the same command follows it again"
  echo " $said "
}

said=$(conditions) || exit
case $said in *" Failed "*) run kubectl delete jobset "$name" ;; esac
run kubectl apply --filename - <<<"$jobset" ||
  refuse "$name: see above; if another JobSet has this name, choose another, or: kubectl delete jobset $name"
if [ -n "$dry_run" ]; then echo "$jobset"; fi
# A restart creates new pods; their logs are followed until the JobSet has ended.
pod=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0
since=()
while true; do
  run kubectl logs --follow --tail -1 "${since[@]}" --container jax-itm --pod-running-timeout 1h --selector "$pod" || true
  since=(--since-time "$(date -u +%FT%TZ)")
  said=$(conditions) || exit
  [ -z "$dry_run" ] || exit 0
  case $said in
  *" Failed "*) refuse "$name has failed, see above and: kubectl describe jobset $name" ;;
  *" Completed "*) break ;;
  *[![:space:]]*) sleep "$wait" ;;
  *) refuse "$name has been deleted; the same command resumes from its last checkpoint" ;;
  esac
done
echo "run and checkpoints   $workdir"
