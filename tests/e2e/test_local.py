"""`chronik-broker local`: what `make run` starts."""

import os
import pty
import re
import signal
import subprocess

from harness import kafka, wait
from harness.cluster import BROKER, free_range, get


class Local:
    """A running `local`, its output in a file, plain unless `terminal`."""

    def __init__(self, directory, brokers=3, terminal=False):
        self.directory, self.brokers, self.terminal = directory, brokers, terminal
        self.output = directory / "local.out"
        base = free_range(40)
        self.kafka_port, self.admin_port = base, base + 30
        self.command = [BROKER, "local", "--brokers", str(brokers), "--data-dir", str(directory / "data"),
                        "--kafka-port", str(base), "--raft-port", str(base + 10), "--replication-port", str(base + 20),
                        "--admin-port", str(base + 30)]

    def __enter__(self):
        self.out = open(self.output, "wb")
        stream = self.out
        if self.terminal:
            self.master, stream = pty.openpty()
        self.process = subprocess.Popen(self.command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if self.terminal:
            os.close(stream)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()

    @property
    def bootstrap(self):
        return ",".join(f"127.0.0.1:{self.kafka_port + i}" for i in range(self.brokers))

    def text(self):
        return self.output.read_text()

    def wait_ready(self):
        wait.until(lambda: re.search(r"ready\s+bootstrap " + re.escape(self.bootstrap), self.text()), "the ready line")

    def pid(self, node):
        return int((self.directory / "data" / f"broker-{node}" / "broker.pid").read_text())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(180)


def test_local_prints_ready_serves_stops_on_ctrl_c_and_finds_its_data_again(tmp_path):
    with Local(tmp_path) as local:
        local.wait_ready()
        acked = kafka.produce(local.bootstrap, "kept", ["a", "b", "c"])
        assert (tmp_path / "data" / "broker-2" / "broker.log").exists()
        assert local.interrupt() == 0
        assert "stopped" in local.text() and "\x1b" not in local.text(), "plain lines when not a terminal"
        assert not (tmp_path / "data" / "broker-2" / "broker.pid").exists()
    with local:
        local.wait_ready()
        assert kafka.read_all(local.bootstrap, "kept") == acked
        assert local.interrupt() == 0


def test_local_starts_a_killed_broker_again(tmp_path):
    with Local(tmp_path) as local:
        local.wait_ready()
        victim = local.pid(1)
        os.kill(victim, signal.SIGKILL)
        wait.until(lambda: local.pid(1) != victim, "a new process for broker 1")
        wait.until(lambda: get(f"127.0.0.1:{local.admin_port}".join(["http://", "/readyz"]))[0] == 200, "its readiness")
        assert "signal 9" in local.text()
        assert local.interrupt() == 0


def test_brokers_do_not_outlive_a_killed_local(tmp_path):
    with Local(tmp_path) as local:
        local.wait_ready()
        pids = [local.pid(node) for node in (1, 2, 3)]
        local.process.kill()
        local.process.wait()
        wait.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the brokers to end")


def test_local_draws_a_live_summary_on_a_terminal(tmp_path):
    with Local(tmp_path, terminal=True) as local:
        seen = b""

        def drawn():
            nonlocal seen
            seen += os.read(local.master, 65536)
            text = seen.decode(errors="replace")
            return all(word in text for word in ("\x1b[", "broker", "leader", "ready", "bootstrap"))

        wait.until(drawn, "a summary with all its parts", interval=0)
        local.process.send_signal(signal.SIGINT)

        def ended():
            try:
                os.read(local.master, 65536)
            except OSError:  # what a terminal says when the last process on it is gone
                return local.process.wait(60) == 0
            return False

        wait.until(ended, "a clean end", interval=0)


def test_a_port_in_use_is_named_before_anything_starts(tmp_path):
    import socket

    local = Local(tmp_path)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", local.kafka_port + 1))
        squatter.listen()
        done = subprocess.run(local.command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    assert str(local.kafka_port + 1) in done.stderr and "--kafka-port" in done.stderr


def test_help_names_every_subcommand():
    out = subprocess.run([BROKER, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    for word in ("run", "local", "status", "doctor", "version"):
        assert word in out, out
