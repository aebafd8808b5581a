"""Launchers: what they would run, and whether shells and Kubernetes accept it."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import kubernetes

ROOT = Path(__file__).parent.parent
ARGUMENTS = ["--config=configs/mae_86m.py", "--config.data.crop_scale=(0.2, 1.0)"]
GPU = ["gpu", "--name=mae", "--image=IMAGE", "--nodes=2", "--gpus=8"]
TPU = ["tpu", "--name=mae", "--image=IMAGE", "--accelerator=tpu-v5-lite-podslice"]
TPU += ["--topology=4x4", "--hosts=4", "--chips_a_host=4"]


def shell(*command, **environment) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": path} | environment, text=True, capture_output=True
    )


def manifests(capsys, options):
    assert kubernetes.main([*options, "--", *ARGUMENTS]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_shell_scripts_pass_shellcheck():
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    result = shell(checker or "shellcheck", *map(str, ROOT.glob("launch/*.sh")))
    assert result.returncode == 0, result.stdout


def test_slurm_starts_main_with_the_arguments_as_given():
    result = shell("bash", "launch/slurm.sh", *ARGUMENTS, DRY_RUN="1")
    assert shlex.split(result.stdout) == [
        *("srun", ".venv/bin/python", "launch/main.py"),
        *ARGUMENTS,
    ]


def test_an_element_of_a_slurm_array_is_a_cell_of_the_study():
    dry = {"DRY_RUN": "1", "PROGRAM": "launch/study.py"}
    result = shell("bash", "launch/slurm.sh", "--workdir=a b", **dry, SLURM_ARRAY_TASK_ID="7")
    words = ["srun", ".venv/bin/python", "launch/study.py", "--workdir=a b", "--cell=7"]
    assert shlex.split(result.stdout) == words
    outside = shell("bash", "launch/slurm.sh", "--workdir=a b", **dry)
    assert outside.returncode and "a study is an array" in outside.stderr


def test_slurm_requeues_a_preempted_job_only(tmp_path):
    for name, body in (("srun", "exit $STATUS"), ("scontrol", 'echo "$@" > requeued')):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        tool.chmod(0o755)
    for status, requeued in ((1, False), (0, False), (75, True)):
        result = subprocess.run(
            ["bash", "launch/slurm.sh", "--config=x"],
            cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "STATUS": str(status), "SLURM_JOB_ID": "7"},
        )
        assert result.returncode == status
        assert (tmp_path / "requeued").exists() == requeued
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_tpu_pod_runs_the_arguments_on_every_host(tmp_path):
    """gcloud is replaced by a shell that does what the hosts would; main.py by one that tells."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        '#!/bin/bash\nfor last; do :; done\ncd "$HOSTS" && eval "${last#--command=}"; wait\n'
    )
    python = tmp_path / "rsfm_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >> told\n[ -e again ] && exit 0\ntouch again\nexit 75\n"
    )
    for tool in (gcloud, python):
        tool.chmod(0o755)
    command = ["launch/tpu_pod.sh", "tpu", "zone", "run", *ARGUMENTS]
    result = shell(*command, PATH=f"{tmp_path}:/usr/bin:/bin", HOSTS=str(tmp_path))
    assert result.returncode == 0, result.stderr
    told = (tmp_path / "rsfm_jax" / "told").read_text().splitlines()
    assert told == 2 * ["launch/main.py", *ARGUMENTS]  # once more after the preemption


def test_tpu_pod_dry_run_starts_nothing_and_bad_usage_is_one_line():
    for action, words in (("install", "git archive"), ("stop", "pkill -TERM")):
        result = shell("launch/tpu_pod.sh", "--dry_run", "tpu", "zone", action)
        assert result.returncode == 0 and words in result.stdout
    for arguments in (["tpu"], ["tpu", "zone", "fly"], ["tpu", "zone", "run"]):
        result = shell("launch/tpu_pod.sh", *arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_the_gpu_job_is_valid_and_tells_every_pod_its_place(capsys):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    service, job = manifests(capsys, GPU)
    for manifest in (service, job):
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:2] == ["python", "launch/main.py"] and command[2:4] == ARGUMENTS
    name = job["metadata"]["name"]
    # Pod 0 of an indexed job has the name JOB-0, below the service that its subdomain names.
    assert f"--coordinator={name}-0.{service['metadata']['name']}:12321" in command
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert "--num_processes=2" in command and job["spec"]["completions"] == 2
    bad = json.loads(json.dumps(job))
    bad["spec"]["completions"] = "two"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, "1.31", strict=True)


def test_the_tpu_jobset_holds_a_valid_job(capsys):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (jobset,) = manifests(capsys, [*TPU, "--slices=2"])
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
    kubernetes_validate.validate(job | replicated["template"], "1.31", strict=True)
    assert replicated["replicas"] == 2
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.parametrize("name", ["Mae", "9x", "a" * 43, "a_b", ""])
def test_a_name_that_kubernetes_would_refuse_is_one_line(name, capsys):
    assert kubernetes.main([*GPU, f"--name={name}", "--", "--config=x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_documented_study_job_is_valid():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    blocks = (ROOT / "docs" / "study.md").read_text().split("```")[1::2]
    (job,) = (yaml.safe_load(block) for block in blocks if block.startswith("\napiVersion"))
    kubernetes_validate.validate(job, "1.31", strict=True)
