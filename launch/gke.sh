#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, as a JobSet, which restarts by itself after each preemption.
#
#   ./launch/gke.sh --name NAME --image REPOSITORY/jax_itm --workdir gs://BUCKET/RUN --data gs://BUCKET/data CONFIG[:ARG] [--config.x=y ..]
#
#   --build                     build and push the image first (launch/Dockerfile)
#   --accelerator tpu-v5-lite-podslice --topology 4x8 --hosts 8 --chips 4     the slice: a v5e-32, 4 chips a host
#   --context CONTEXT --namespace NAMESPACE   of kubectl (default: its own)
#   --cpu 8 --memory 64Gi --shm 16Gi          what a pod needs of its host; shared memory is for config.data.workers
#   --queue QUEUE               of Kueue, which then decides when the JobSet starts
#   --ttl 86400                 seconds after which a JobSet that has ended is deleted
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
name="" image="" workdir="" config="" data="" build="" wait=10 account=default context="" namespace=""
# shellcheck disable=SC2034
accelerator=tpu-v5-lite-podslice topology=4x8 hosts=8 chips=4 cpu=8 memory=64Gi shm=16Gi queue="" ttl=86400
options="name image workdir data wait account context namespace accelerator topology hosts chips cpu memory shm queue ttl"
flags=build
read_options "$@"
need name image workdir data config
for option in workdir data; do
  [[ ${!option} == gs://* ]] || refuse "--$option ${!option}: must be in a bucket, gs://.., as a pod loses its disk"
done
need_number hosts chips wait cpu ttl
label='[a-z0-9]([-a-z0-9]*[a-z0-9])?'
need_form name "$label" "small letters, digits and hyphens"
need_form account "$label" "a service account of Kubernetes"
need_form accelerator "$label" "a kind of TPU, such as tpu-v5-lite-podslice"
need_form queue "($label)?" "a queue of Kueue"
need_form image '[A-Za-z0-9][A-Za-z0-9._:/@-]*' "REPOSITORY/NAME[:TAG]"
need_form topology '[0-9]+(x[0-9]+){1,2}' "such as 4x8"
need_form memory '[0-9]+[MG]i' "such as 64Gi"
need_form shm '[0-9]+[MG]i' "such as 16Gi"
((hosts * chips == ${topology//x/*})) ||
  refuse "--topology $topology: has $((${topology//x/*})) chips, but --hosts $hosts x --chips $chips are $((hosts * chips))"
need_program kubectl ${build:+docker}
bucket=${data#gs://} bucket=${bucket%%/*}
[[ $bucket =~ ^[a-z0-9][a-z0-9._-]*$ ]] || refuse "--data $data: no name of a bucket"
labels="{}"
# shellcheck disable=SC2034  # as above
[ -z "$queue" ] || labels="{kueue.x-k8s.io/queue-name: \"$queue\"}"
where=(${context:+--context "$context"} ${namespace:+--namespace "$namespace"})

if [ -n "$build" ]; then
  run docker build --platform linux/amd64 --file launch/Dockerfile --build-arg ACCELERATOR=tpu --tag "$image" .
  run docker push "$image"
fi

args=""
for word in train --config "$config" --workdir "$workdir" "${overrides[@]}" "--config.data.data_dir=/buckets/${data#gs://}"; do
  [[ $word != *[[:cntrl:]]* ]] || refuse "${word@Q}: has a line break or another control character"
  word=${word//\\/\\\\}
  args+=", \"${word//\"/\\\"}\""
done
args="[${args#, }]"
jobset=$(<launch/gke.yaml)
for word in name image account accelerator topology hosts chips cpu memory shm ttl labels bucket args; do
  jobset=${jobset//"\${$word}"/"${!word}"}
done

# The name of the JobSet and its conditions, such as StartupPolicyCompleted, each surrounded by spaces; only spaces
# if there is no JobSet.
conditions() {
  local said
  said=$(run kubectl get jobset "$name" --ignore-not-found --output 'jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}' "${where[@]}") ||
    refuse "kubectl cannot query $name, see above; the same command follows it again"
  echo " $said "
}

said=$(conditions) || exit
case $said in *" Failed "*) run kubectl delete jobset "$name" "${where[@]}" ;; esac
run kubectl apply --filename - "${where[@]}" <<<"$jobset" ||
  refuse "$name: see above; if another JobSet has this name, choose another, or: kubectl delete jobset $name"
if [ -n "$dry_run" ]; then echo "$jobset"; fi
# A restart creates new pods; their logs are followed until the JobSet has ended.
pod=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0
since=()
while true; do
  run kubectl logs --follow --tail -1 "${since[@]}" --container jax-itm --pod-running-timeout 1h --selector "$pod" "${where[@]}" || true
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
