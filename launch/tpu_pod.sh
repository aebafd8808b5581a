#!/usr/bin/env bash
# Trains on a Cloud TPU slice through gcloud: copies the checkout, installs it, runs it everywhere.
#
#   launch/tpu_pod.sh [--dry_run] TPU ZONE install
#   launch/tpu_pod.sh [--dry_run] TPU ZONE run --config=configs/mae_2p4b.py \
#     --workdir=/mnt/bucket/mae_2p4b --config.data.source=/mnt/bucket/millionaid
#   launch/tpu_pod.sh [--dry_run] TPU ZONE stop
#
# The slice exists already (gcloud compute tpus tpu-vm create ...; python launch/plan.py says how
# many chips a config needs) and every host sees the same workdir: mount a bucket or a filestore.
# `run` starts the same command on every host, in the background: it survives a lost connection
# and starts again after a preemption (exit 75). The log is ~/rsfm_jax/run.log on each host.
# `stop` makes it save and leave.
set -euo pipefail

die() {
  echo "error: $1" >&2
  exit 2
}

run=()
if [[ ${1:-} == --dry_run ]]; then
  run=(echo)
  shift
fi
[[ $# -ge 3 ]] || die "usage: launch/tpu_pod.sh [--dry_run] TPU ZONE install|run|stop [ARGUMENTS]"
readonly tpu=$1 zone=$2 action=$3
shift 3

on_all_hosts() {
  "${run[@]}" gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="$1"
}

case $action in
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    "${run[@]}" git archive --format=tar.gz --output="$archive" HEAD
    "${run[@]}" gcloud compute tpus tpu-vm scp "$archive" "$tpu:rsfm_jax.tar.gz" \
      --zone="$zone" --worker=all
    on_all_hosts "mkdir -p rsfm_jax && tar -xzf rsfm_jax.tar.gz -C rsfm_jax && cd rsfm_jax \
&& python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
    ;;
  run)
    [[ $# -gt 0 ]] || die "run: give main.py's arguments, such as --config=configs/mae_86m.py"
    arguments=$(printf '%q ' "$@")
    loop="status=75; while [ \$status -eq 75 ]; do .venv/bin/python launch/main.py $arguments; \
status=\$?; done"
    on_all_hosts "cd rsfm_jax && nohup sh -c $(printf '%q' "$loop") > run.log 2>&1 < /dev/null &"
    ;;
  stop)
    # The restarting loop first, or it would go on after the process has saved.
    on_all_hosts "pkill -f 'while .*launch/main.p[y]'; pkill -TERM -f '^[^ ]*python launch/main.p[y]'"
    ;;
  *)
    die "unknown action $action: install, run or stop"
    ;;
esac
