"""Prints Kubernetes manifests that train: an indexed Job on GPU nodes, or a JobSet on GKE TPUs.

    python launch/kubernetes.py gpu --name=mae --image=IMAGE --nodes=2 --gpus=8 -- \
        --config=configs/mae_2p4b.py --workdir=/mnt/runs/mae_2p4b | kubectl apply -f -
    python launch/kubernetes.py tpu --name=mae --image=IMAGE --accelerator=tpu-v5-lite-podslice \
        --topology=4x4 --hosts=4 --chips_a_host=4 -- --config=... | kubectl apply -f -

IMAGE holds this checkout with its dependencies and starts in it (docs/launching.md has a
Dockerfile). Everything after `--` goes to launch/main.py. Every pod has the claim
`--volume` mounted at /mnt; put the workdir and the data there. A run that saved and stopped (exit
75) and one that lost a node start again without counting as failures, and resume.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from launch.command import EXIT_PREEMPTED, Parser, execute
from rsfm_jax.errors import UserError

PORT = 12321  # of process 0's coordinator
GRACE_SECONDS = 300  # to save in, after SIGTERM
RETRIES = 6  # failures, not preemptions, that end the job

Manifest = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the manifests; returns the exit status."""
    return execute(lambda: _print(_parser().parse_args(arguments)))


def _print(options: argparse.Namespace) -> None:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", options.name):
        raise UserError(
            f"--name={options.name}: up to 42 lower-case letters, digits and hyphens, a letter "
            "first"
        )
    manifests = gpu_manifests(options) if options.kind == "gpu" else [tpu_manifest(options)]
    yaml.safe_dump_all(manifests, sys.stdout, sort_keys=False)


def gpu_manifests(options: argparse.Namespace) -> list[Manifest]:
    """A headless service, so that pods find process 0, and an indexed Job of one pod a node."""
    name = options.name
    distributed = [
        f"--coordinator={name}-0.{name}:{PORT}",
        f"--num_processes={options.nodes}",
        "--process_id=$(JOB_COMPLETION_INDEX)",  # expanded by Kubernetes
    ]
    pod = _pod(options, distributed, {"nvidia.com/gpu": options.gpus})
    pod["subdomain"] = name
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "clusterIP": "None",
            "selector": {"job-name": name},
            "publishNotReadyAddresses": True,  # process 0 waits for the others to find it
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": _job(options.nodes, pod, RETRIES, on_preemption="Ignore"),
    }
    return [service, job]


def tpu_manifest(options: argparse.Namespace) -> Manifest:
    """A JobSet of one TPU slice, or several; GKE tells the processes of each other."""
    pod = _pod(options, [], {"google.com/tpu": options.chips_a_host})
    pod["nodeSelector"] = {
        "cloud.google.com/gke-tpu-accelerator": options.accelerator,
        "cloud.google.com/gke-tpu-topology": options.topology,
    }
    # A slice lives and dies as a whole: the set restarts, not a pod.
    job = _job(options.hosts, pod, 0, on_preemption="FailJob")
    uncounted = {
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": options.name,
            # One slice is one node pool.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {"maxRestarts": RETRIES, "rules": [uncounted]},
            "replicatedJobs": [
                {"name": "slice", "replicas": options.slices, "template": {"spec": job}}
            ],
        },
    }


def _job(pods: int, pod: Manifest, retries: int, on_preemption: str) -> Manifest:
    """An indexed Job; a preemption, unlike a failure, does what `on_preemption` says."""
    saved = {"containerName": "train", "operator": "In", "values": [EXIT_PREEMPTED]}
    lost = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": retries,
        "podFailurePolicy": {
            "rules": [
                {"action": on_preemption, "onExitCodes": saved},
                {"action": on_preemption, "onPodConditions": lost},
            ]
        },
        "template": {"spec": pod},
    }


def _pod(options: argparse.Namespace, extra: list[str], devices: dict[str, int]) -> Manifest:
    container = {
        "name": "train",
        "image": options.image,
        "command": ["python", "launch/main.py", *options.arguments, *extra],
        "resources": {"limits": devices},
        "volumeMounts": [
            {"name": "data", "mountPath": "/mnt"},
            {"name": "shm", "mountPath": "/dev/shm"},  # NCCL and worker processes share memory
        ],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": options.volume}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    gpu = kinds.add_parser("gpu", help="an indexed Job, one pod a node")
    gpu.add_argument("--nodes", type=_count, required=True)
    gpu.add_argument("--gpus", type=_count, required=True, help="on every node")
    tpu = kinds.add_parser("tpu", help="a JobSet on a GKE node pool of TPUs")
    tpu.add_argument("--accelerator", required=True, help="such as tpu-v5-lite-podslice")
    tpu.add_argument("--topology", required=True, help="of a slice, such as 4x4")
    tpu.add_argument("--hosts", type=_count, required=True, help="of a slice")
    tpu.add_argument("--chips_a_host", type=_count, required=True)
    tpu.add_argument("--slices", type=_count, default=1)
    for kind in (gpu, tpu):
        kind.add_argument("--name", required=True)
        kind.add_argument("--image", required=True)
        kind.add_argument("--volume", default="rsfm-data", help="claim mounted at /mnt")
        kind.add_argument("arguments", nargs="+", help="after --: those of launch/main.py")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
