"""tpu_vm.sh against a stand-in for gcloud: preemptions, failures, and a run that outlives its terminal."""

import pytest

from tests.helpers.launchers import TPU, TRAIN


def test_a_preempted_slice_is_created_again_and_the_run_resumes(sandbox):
    for fault in ("preempted", "deaf"):
        (sandbox.fake / fault).touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", ends=(143, 0))
    assert not done.returncode, done.stderr
    assert "itm: preempted; starting again" in done.stdout and "checkpoints   gs://b/run" in done.stdout
    assert "no route to host" in done.stderr
    assert len(sandbox.calls("gcloud compute tpus queued-resources create itm")) == 2
    assert sandbox.calls("queued-resources create itm", "--runtime-version v2-alpha-tpuv5-lite --spot")
    assert (
        len(sandbox.calls("queued-resources delete itm --zone z --quiet --force")) == 2
    )  # preempted; given back
    assert len(sandbox.calls("storage rsync --recursive gs://d/sets data")) >= 2
    trained = sandbox.calls("trainer -m jax_itm train")
    assert trained == 2 * [
        f"trainer -m jax_itm {TRAIN} --config.seed=1 --config.optimizer.lr_factors=(('^text/', 0.1),)"
        " --workdir gs://b/run --config.data.data_dir=data"
    ]
    assert "step 1" in done.stdout


@pytest.fixture
def existing_slice(sandbox):
    (sandbox.fake / "state").write_text("ACTIVE\n")
    (sandbox.fake / "worker").mkdir()
    return sandbox


def test_an_existing_slice_is_used_and_wrong_input_is_not_tried_again(existing_slice):
    sandbox = existing_slice
    done = sandbox.run("tpu_vm.sh", *TPU, ends=(0, 2))  # prepare; train
    assert done.returncode == 2 and "tpu_vm.sh: the input was refused" in done.stderr
    assert not sandbox.calls("queued-resources create") and not sandbox.calls("queued-resources delete")
    assert (
        len(sandbox.calls("trainer -m jax_itm prepare"))
        == len(sandbox.calls("trainer -m jax_itm train"))
        == 1
    )


def test_a_broken_connection_is_not_a_failure(existing_slice):
    sandbox = existing_slice
    for fault in ("cut", "slow"):
        (sandbox.fake / fault).touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--tries", "1", ends=(0,))
    assert not done.returncode, done.stderr
    assert len(sandbox.calls("trainer -m jax_itm train")) == 1 and "starting again" not in done.stdout


def test_a_failing_training_is_tried_as_often_as_configured(existing_slice):
    sandbox = existing_slice
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--tries", "2", ends=(75, 1))
    assert done.returncode == 1 and "tpu_vm.sh: failed 2 times, see above; itm is kept" in done.stderr
    assert "itm: ended with status 75" in done.stdout
    assert len(sandbox.calls("trainer -m jax_itm train")) == 2
    assert (sandbox.fake / "worker" / "jax_itm" / "earlier.log").read_text() == "step 1\n"


def test_a_slice_is_not_requested_forever(sandbox):
    (sandbox.fake / "preempted").touch()
    done = sandbox.run("tpu_vm.sh", *TPU, "--slices", "1", "--unattended", ends=(0, 143))
    assert done.returncode == 1 and "tpu_vm.sh: preempted too often, see above\n" in done.stderr
    assert len(sandbox.calls("queued-resources create itm")) == 1
    assert len(sandbox.calls("queued-resources delete itm")) == 1


def test_a_run_outlives_the_terminal_that_started_it(sandbox):
    done = sandbox.run("tpu_vm.sh", *TPU, "--data", "gs://d/sets", "--account", "a@b", "--detach")
    assert not done.returncode, done.stderr
    assert "gcloud storage cat gs://b/run/launch/launch.log" in done.stdout
    [create] = sandbox.calls("compute instances create itm-launcher --zone z --quiet")
    for part in ("jax-itm-launch=gs://b/run/launch", "startup-script=launch/tpu_launcher.sh", "account a@b"):
        assert part in create
    assert not sandbox.calls("queued-resources")

    (sandbox.fake / "preempted").touch()
    (sandbox.fake / "home").mkdir()
    done = sandbox.run("tpu_launcher.sh", ends=(143, 0), HOME=str(sandbox.fake / "home"))
    assert not done.returncode, done.stderr
    log = (sandbox.fake / "bucket" / "b" / "run" / "launch" / "launch.log").read_text()
    assert "itm: preempted; starting again" in log and log.endswith("tpu_vm.sh ended with status 0\n")
    assert len(sandbox.calls("queued-resources create itm")) == 2
    assert sandbox.calls("trainer -m jax_itm train")[1] == (
        f"trainer -m jax_itm {TRAIN} --config.seed=1 --config.optimizer.lr_factors=(('^text/', 0.1),)"
        " --workdir gs://b/run --config.data.data_dir=data"
    )
    assert sandbox.calls("compute instances delete itm-launcher --zone z --quiet")


def test_whose_slice_it_is(sandbox):
    more = (
        "--project",
        "p1",
        "--account",
        "a@b",
        "--network",
        "n",
        "--labels",
        "team=x",
        "--keep",
        "--dry_run",
    )
    done = sandbox.run("tpu_vm.sh", *TPU, *more)
    assert done.returncode == 0, done.stderr
    create = next(line for line in done.stdout.splitlines() if "create itm" in line)
    for part in ("--project p1", "--service-account a@b", "--network n", "--labels team=x"):
        assert part in create
    assert "delete itm" not in done.stdout
