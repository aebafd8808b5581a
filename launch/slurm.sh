#!/usr/bin/env bash
# Trains on a SLURM cluster; submit it from the checkout, with what follows going to main.py.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#     --config=configs/mae_2p4b.py --workdir=/scratch/mae_2p4b --config.data.source=/data/millionaid
#
# --ntasks-per-node=8 starts one process a GPU, --ntasks-per-node=1 one a node; both work. A
# sweep is an array: add --array=0-4 and use $SLURM_ARRAY_TASK_ID in the workdir. Of a study each
# element of the array is a cell (docs/study.md):
#
#   PROGRAM=launch/study.py sbatch --array=0-3 ... launch/slurm.sh --config=... --workdir=DIR
#
# DRY_RUN=1 bash launch/slurm.sh ARGUMENTS prints the command and starts nothing.
#
#SBATCH --job-name=rsfm_jax
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Two minutes before the time limit every process is told to save and to leave with 75.
#SBATCH --signal=TERM@120
set -euo pipefail

readonly PREEMPTED=75
python=${PYTHON:-.venv/bin/python}
command=(srun "$python" "${PROGRAM:-launch/main.py}" "$@")
if [[ ${PROGRAM:-} == launch/study.py ]]; then
  command+=(--cell="${SLURM_ARRAY_TASK_ID:?a study is an array: sbatch --array=0-3 ...}")
fi

if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit
fi

status=0
"${command[@]}" || status=$?
if ((status == PREEMPTED)); then
  # The same job goes on from its checkpoint as soon as it is scheduled again.
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
