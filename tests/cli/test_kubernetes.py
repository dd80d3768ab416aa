"""packaging/kubernetes/mpijob.yaml: every field is one that the operator's v2beta1 has, with the kind of value that it takes; numbers agree with each other; and
the launcher's command is one that the program accepts. The fields were read from the operator's own CRD (manifests/base/kubeflow.org_mpijobs.yaml)."""

import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

try:
    import yaml
except ImportError:
    print("no python3-yaml: skipped")
    sys.exit(77)

POLICIES = {"Always", "OnFailure", "Never", "ExitCode"}
QUANTITY = re.compile(r"[0-9]+([.][0-9]+)?(m|[KMGTPE]i?|k)?")  # of a resource, as text
TEXTS = [str]
MOUNT = {"name": str, "mountPath": str, "readOnly": bool, "subPath": str}
CONTAINER = {"name": str, "image": str, "imagePullPolicy": {"Always", "IfNotPresent", "Never"}, "workingDir": str, "command": TEXTS, "args": TEXTS,
             "env": [{"name": str, "value": str}], "securityContext": {"runAsUser": int, "runAsGroup": int, "capabilities": {"add": TEXTS, "drop": TEXTS}},
             "resources": {"limits": {"cpu": QUANTITY, "memory": QUANTITY}, "requests": {"cpu": QUANTITY, "memory": QUANTITY}}, "volumeMounts": [MOUNT]}
VOLUME = {"name": str, "persistentVolumeClaim": {"claimName": str, "readOnly": bool}, "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": QUANTITY},
          "hostPath": {"path": str, "type": str}}
POD = {"containers": [CONTAINER], "volumes": [VOLUME], "terminationGracePeriodSeconds": int, "activeDeadlineSeconds": int, "nodeSelector": dict,
       "hostNetwork": bool, "serviceAccountName": str, "priorityClassName": str}
REPLICAS = {"replicas": int, "restartPolicy": POLICIES, "template": {"metadata": {"labels": dict, "annotations": dict}, "spec": POD}}
FIELDS = {"apiVersion": {"kubeflow.org/v2beta1"}, "kind": {"MPIJob"}, "metadata": {"name": str, "namespace": str, "labels": dict, "annotations": dict},
          "spec": {"slotsPerWorker": int, "sshAuthMountPath": str, "mpiImplementation": {"OpenMPI", "Intel"}, "waitForWorkers": bool,
                   "runPolicy": {"cleanPodPolicy": {"None", "Running", "All"}, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
                                 "backoffLimit": int, "suspend": bool, "schedulingPolicy": {"minAvailable": int, "queue": str, "priorityClass": str}},
                   "mpiReplicaSpecs": {"Launcher": REPLICAS, "Worker": REPLICAS}}}
checks = harness.Checks()


def check(value, field, where):
    """`field` is what may stand there: a table, a list of one kind, a set of words, a pattern or a type."""
    if isinstance(field, dict):
        if not isinstance(value, dict):
            return checks.that(False, f"{where}: {value} is no table")
        for name, inner in value.items():
            checks.that(name in field, f"{where}.{name}: no such field in v2beta1")
            if name in field:
                check(inner, field[name], f"{where}.{name}")
    elif isinstance(field, list):
        if not isinstance(value, list):
            return checks.that(False, f"{where}: {value} is no list")
        for i, inner in enumerate(value):
            check(inner, field[0], f"{where}[{i}]")
    elif isinstance(field, set):
        checks.that(value in field, f"{where}: {value}, not one of {sorted(field)}")
    elif isinstance(field, re.Pattern):
        checks.that(isinstance(value, str) and field.fullmatch(value), f"{where}: {value!r} is no quantity")
    else:
        checks.that(type(value) is field, f"{where}: {value!r}, not of type {field.__name__}")
    return None


def finds_mistakes(job):
    """Fields that do not exist, of a wrong kind, or a quantity that is none are seen."""
    global checks
    kept, checks = checks, harness.Checks()
    for broken in ({**job, "spec": {**job["spec"], "slots": 2}}, {**job, "spec": {**job["spec"], "slotsPerWorker": "2"}}, {**job, "kind": "Job"}):
        before = len(checks.faults)
        check(broken, FIELDS, "job")
        kept.that(len(checks.faults) == before + 1, f"a mistake is not seen: {checks.faults[before:]}")
    checks = kept


with open(f"{harness.SOURCE}/packaging/kubernetes/mpijob.yaml") as file:
    job = yaml.safe_load(file)
check(job, FIELDS, "job")
finds_mistakes(job)
for name, wanted in (("apiVersion", str), ("kind", str), ("metadata", dict), ("spec", dict)):
    checks.that(isinstance(job.get(name), wanted), f"{name} is missing")
launcher, worker = (job["spec"]["mpiReplicaSpecs"][name] for name in ("Launcher", "Worker"))
for replicas in (launcher, worker):
    pod = replicas["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        checks.that(mounts == volumes, f"{container['name']}: mounts {mounts} of the volumes {volumes}")
        checks.that(container["workingDir"] in [mount["mountPath"] for mount in container["volumeMounts"]], f"{container['name']}: works outside the volumes")
words = launcher["template"]["spec"]["containers"][0]["args"]
slots, threads = job["spec"]["slotsPerWorker"], int(next(word for word in words if word.startswith("OMP_NUM_THREADS=")).split("=")[1])
checks.that(int(words[words.index("-n") + 1]) == slots * worker["replicas"], "mpirun starts another number of ranks than the workers have slots")
checks.that(int(worker["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) == slots * threads, "a worker's cores are not its ranks' threads")
program = words[words.index("mpilora") + 1:]
done = harness.start(*program)
checks.that(done.returncode == 2 and "run.yaml" in done.stderr, f"mpilora {program}: {done.returncode}, {done.stderr}: only the file is missing here")
checks.end()
