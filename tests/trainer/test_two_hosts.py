"""sh/multinode.sh on two hosts that are network namespaces, with names and a cable of their own. About 3 minutes."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).parents[2]
NAMES, ADDRESSES, CABLE = ("verl-dft-a", "verl-dft-b"), ("10.77.0.1", "10.77.0.2"), "cable"
STEPS, SILENCE = 60, 6


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cable():
    """Two namespaces and a veth pair between them."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, and the commands ip (iproute2) and unshare (util-linux)")
    try:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)  # of a test that was killed
            ip("netns", "add", name)
        ip("link", "add", CABLE, "netns", NAMES[0], "type", "veth", "peer", "name", CABLE, "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", CABLE, "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
    yield
    for name in NAMES:
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def start(cable, tmp_path_factory, tiny_model, parquet_files):
    """Start both hosts on a folder; [(process, its screen's file)]."""
    started: list[subprocess.Popen] = []

    def go(out: Path, restarts: int = 0) -> list[tuple[subprocess.Popen, Path]]:
        flags = [
            f"data.train_files={parquet_files[0]}",
            f"model.partial_pretrain={tiny_model}",
            f"trainer.default_local_dir={out}",
            "data.train_batch_size=8",
            "data.max_length=256",
            "optim.lr=1e-3",
            "trainer.total_epochs=12",
            "trainer.save_freq=10",
            f"trainer.peer_timeout={SILENCE}",
        ]
        hosts = []
        for i, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True)):
            values = dict(NNODES=2, NODE_RANK=i, NPROC=1, HEAD=ADDRESSES[0], LOCAL_ADDR=address, MAX_RESTARTS=restarts)
            settings = [f"{key}={value}" for key, value in {**values, "GLOO_SOCKET_IFNAME": CABLE}.items()]
            host = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname host-{i}; exec "$@"', "sh"]
            screen = tmp_path_factory.mktemp("screens") / f"host-{i}"
            with screen.open("w") as file:
                command = [*host, "env", *settings, "bash", str(PROJECT / "sh" / "multinode.sh"), *flags]
                process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            started.append(process)
            hosts.append((process, screen))
        return hosts

    yield go
    for process in started:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                child.kill()


def wait(hosts, timeout: float = 180) -> list[int]:
    return [process.wait(timeout) for process, _ in hosts]


def wait_for(path: Path, hosts) -> None:
    ends = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < ends and all(process.poll() is None for process, _ in hosts), hosts[0][1].read_text()
        time.sleep(0.05)


def result(out: Path) -> tuple[bytes, list[tuple[int, float]]]:
    """The weights at the end, and the loss of each step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = (out / f"global_step_{STEPS}" / "huggingface" / "model.safetensors").read_bytes()
    return weights, [(line["step"], line["train/nll"]) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    hosts = start(out)
    assert wait(hosts) == [0, 0], hosts[0][1].read_text()[-3000:]
    return result(out)


@pytest.mark.slow
def test_a_cut_cable_ends_both_hosts_and_the_same_command_goes_on_to_the_same_result(start, uninterrupted, tmp_path):
    hosts = start(tmp_path)
    wait_for(tmp_path / "global_step_20", hosts)
    ip("-n", NAMES[1], "link", "set", CABLE, "down")
    cut = time.monotonic()
    try:
        assert 0 not in wait(hosts)
        assert time.monotonic() - cut < 60
    finally:
        ip("-n", NAMES[1], "link", "set", CABLE, "up")
    first, second = (screen.read_text() for _, screen in hosts)
    assert f"machine host-1 has given no sign of life for {SILENCE} s" in first.splitlines()[-2]
    assert f"error: {ADDRESSES[0]}, which keeps the run together, does not answer any more" in second
    assert not (tmp_path / f"global_step_{STEPS}").exists()
    again = start(tmp_path)
    assert wait(again) == [0, 0], again[0][1].read_text()[-3000:]
    assert "Going on from" in again[0][1].read_text()
    assert result(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_killed_rank_is_started_again_by_torchrun_and_ends_with_the_same_result(start, uninterrupted, tmp_path):
    hosts = start(tmp_path, restarts=2)
    wait_for(tmp_path / "global_step_20", hosts)
    below = psutil.Process(hosts[1][0].pid).children(recursive=True)
    ranks = [process for process in below if process.environ().get("RANK") == "1"]
    assert ranks
    for rank in ranks:
        rank.kill()
    assert wait(hosts) == [0, 0], hosts[0][1].read_text()[-3000:]
    assert "Going on from" in hosts[0][1].read_text()
    assert result(tmp_path) == uninterrupted


@pytest.mark.slow
def test_sigterm_to_the_script_on_one_host_stops_both_in_order_and_both_say_so(start, tmp_path):
    hosts = start(tmp_path)
    wait_for(tmp_path / "global_step_20", hosts)
    script = psutil.Process(hosts[1][0].pid)  # every command before torchrun has put the next one in its own place
    assert "verl.trainer.fsdp_dft_trainer.torchrun" in script.cmdline()
    script.terminate()
    # The other torchrun would wait for this one for another five minutes.
    assert wait(hosts, timeout=60) == [143, 143], hosts[0][1].read_text()[-3000:]
    stopped = json.loads((tmp_path / "stopped.json").read_text())
    assert stopped["reason"] == "SIGTERM" and (tmp_path / f"global_step_{stopped['step']}").is_dir()
