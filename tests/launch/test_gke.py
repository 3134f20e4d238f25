"""gke.sh against a stand-in for kubectl, and the JobSet that it applies."""

import jsonschema
import yaml

from tests.helpers.launchers import GKE, RUN, TRAIN


def test_a_jobset_is_followed_to_its_end(sandbox):
    done = sandbox.run("gke.sh", *GKE, ends=("", "StartupPolicyCompleted", "Completed"))
    assert done.returncode == 0, done.stderr
    logs = sandbox.calls("kubectl logs --follow --tail -1")
    assert len(logs) == 3 and "step 1" in done.stdout
    assert ["--since-time" in line for line in logs] == [
        False,
        True,
        True,
    ]  # what was shown is not shown again
    check_jobset(yaml.safe_load((sandbox.fake / "jobset.yaml").read_text()))


def test_where_a_jobset_runs_and_what_it_may_take(sandbox):
    more = (
        "--queue",
        "team",
        "--context",
        "c1",
        "--namespace",
        "n1",
        "--memory",
        "32Gi",
        "--shm",
        "4Gi",
        "--cpu",
        "6",
    )
    done = sandbox.run("gke.sh", *GKE, *more, ends=("Completed",))
    assert done.returncode == 0, done.stderr
    calls = sandbox.calls("kubectl")
    assert calls and all("--context c1 --namespace n1" in call for call in calls)
    jobset = yaml.safe_load((sandbox.fake / "jobset.yaml").read_text())
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert jobset["spec"]["ttlSecondsAfterFinished"] == 86400
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": 6, "memory": "32Gi"} and resources["limits"]["memory"] == "32Gi"
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}


def test_what_stands_in_a_jobset_is_what_was_typed(sandbox):
    typed = """--config.name=a: "b" \\ {c}, #d & ${shm} 'e' |\u00e9"""
    done = sandbox.run("gke.sh", *GKE, typed, ends=("Completed",))
    assert done.returncode == 0, done.stderr
    jobset = yaml.safe_load((sandbox.fake / "jobset.yaml").read_text())
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][-2] == typed


def test_a_failed_jobset_is_created_again(sandbox):
    done = sandbox.run("gke.sh", *GKE, ends=("Failed",))
    assert done.returncode == 2 and "itm has failed, see above" in done.stderr
    assert not sandbox.calls("kubectl delete")
    assert sandbox.run("gke.sh", *GKE, ends=("Failed", "Completed")).returncode == 0
    assert len(sandbox.calls("kubectl delete jobset itm")) == 1


def closed(required: str, **properties) -> dict:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def check_jobset(jobset: dict) -> None:
    """The fields that gke.yaml uses, by the names and types of jobset.x-k8s.io/v1alpha2 and batch/v1.

    A subset, written after the JobSet's published schema: a field that is not here is refused.
    """
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    items = lambda schema: {"type": "array", "items": schema, "minItems": 1}
    names = {"type": "object", "additionalProperties": text}
    container = closed(
        "name image args resources",
        name={"pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        image=text,
        args=items(text),
        ports=items(closed("containerPort", containerPort=number)),
        resources=closed("limits", limits={"type": "object"}, requests={"type": "object"}),
        volumeMounts=items(closed("name mountPath", name=text, mountPath=text, readOnly={"type": "boolean"})),
    )
    csi = closed("driver", driver=text, readOnly={"type": "boolean"}, volumeAttributes=names)
    pod = closed(
        "containers restartPolicy",
        restartPolicy={"enum": ["Never"]},  # what a podFailurePolicy needs
        securityContext=closed("runAsNonRoot", runAsNonRoot={"const": True}),
        terminationGracePeriodSeconds=number,
        serviceAccountName=text,
        nodeSelector=names,
        containers=items(container),
        volumes=items(
            closed("name", name=text, csi=csi, emptyDir=closed("medium", medium=text, sizeLimit=text))
        ),
    )
    exits = closed("operator values", containerName=text, operator={"enum": ["In"]}, values=items(number))
    rule = closed("action onExitCodes", action={"enum": ["FailJob"]}, onExitCodes=exits)
    job = closed(
        "parallelism completions completionMode template",
        parallelism=number,
        completions=number,
        completionMode={"enum": ["Indexed"]},
        backoffLimit=number,
        podFailurePolicy=closed("rules", rules=items(rule)),
        template=closed("spec", metadata=closed("", annotations=names), spec=pod),
    )
    failed = closed("action", action={"enum": ["FailJobSet"]}, onJobFailureReasons=items(text))
    replicated = closed(
        "name replicas template", name=text, replicas=number, template=closed("spec", spec=job)
    )
    schema = closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
        kind={"const": "JobSet"},
        metadata=closed("name", name=text, annotations=names, labels=names),
        spec=closed(
            "replicatedJobs",
            ttlSecondsAfterFinished=number,
            failurePolicy=closed("maxRestarts", maxRestarts=number, rules=items(failed)),
            replicatedJobs=items(replicated),
        ),
    )
    jsonschema.validate(jobset, schema)
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    inside = spec["template"]["spec"]["containers"][0]
    assert spec["parallelism"] == spec["completions"] == 8
    assert inside["resources"]["limits"] == {"google.com/tpu": 4, "memory": "64Gi"}
    assert inside["args"] == [
        *TRAIN.split(),
        *("--workdir", "gs://b/run", *RUN[1:], "--config.data.data_dir=/buckets/d/sets"),
    ]
    assert inside["volumeMounts"][0]["mountPath"] == "/buckets/d"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == inside["name"]
