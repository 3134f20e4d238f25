#!/usr/bin/env bash
# The startup script of the small machine that launch/tpu_vm.sh --detach creates: it runs launch/tpu_vm.sh there, so that a
# run outlives the terminal that it was started from, and deletes the machine when that has ended. It is run again
# at each start of the machine, and then follows the run that it finds.
#
# The attribute jax-itm-launch of the machine is the folder in a bucket that has the project (jax_itm.tgz) and the
# arguments of launch/tpu_vm.sh, each ended by a zero byte; its log is written there.
set -euo pipefail
export HOME=${HOME:-/root} # a startup script has none
mkdir -p "$HOME/jax_itm"
cd "$HOME/jax_itm"
attribute() {
  curl --silent --fail --header "Metadata-Flavor: Google" "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}
folder=$(attribute attributes/jax-itm-launch)
gcloud storage cp "$folder/jax_itm.tgz" "$folder/arguments" "$HOME/"
tar xzf "$HOME/jax_itm.tgz"
mapfile -d "" -t arguments <"$HOME/arguments"

while sleep 60; do gcloud storage cp "$HOME/launch.log" "$folder/launch.log" || true; done >/dev/null 2>&1 &
copying=$!
status=0
bash launch/tpu_vm.sh "${arguments[@]}" --unattended >>"$HOME/launch.log" 2>&1 || status=$?
kill "$copying"
echo "tpu_vm.sh ended with status $status" >>"$HOME/launch.log"
gcloud storage cp "$HOME/launch.log" "$folder/launch.log"
zone=$(attribute zone)
gcloud compute instances delete "$(attribute name)" --zone "${zone##*/}" --quiet
