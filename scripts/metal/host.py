"""This host in the guest's place: its own ports, a process instead of a unit."""

import os
import signal
import subprocess
import time

from guest import Failed


class Cable:
    """A port of the gateway, and the interface at the other end of its cable."""

    def __init__(self, name, text, namespace):
        self.name = name
        # A device may have an = of its own: vdev:net_af_packet0,iface=eth0.
        self.device, _, self.interface = text.rpartition("=")
        if not self.device:
            raise SystemExit(f"test-metal: {text}: not DEVICE=INTERFACE")
        self.namespace = namespace


class Host:
    is_emulated = False

    def __init__(self, directory, cables, runtime):
        self.directory = directory
        self.nics = {cable.name: cable for cable in cables}
        self.scratch = directory
        self.configuration = f"{directory}/fullgate.toml"
        self.administration = f"fullgatectl --socket {directory}/socket"
        workers = [] if any(line.startswith("workers") for line in runtime) else ["workers = 2"]
        self.runtime = "\n".join([*workers, "connections = 20_000", 'instance = "metal"',
                                  f'admin-socket = "{directory}/socket"', *runtime])
        self.process = None

    def run(self, text, timeout=60):
        """A shell command: its exit code and output."""
        try:
            done = subprocess.run(["/bin/sh", "-c", text], check=False, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            return 124, str(error)
        return done.returncode, done.stdout

    def must(self, text, timeout=60):
        code, out = self.run(text, timeout)
        if code:
            raise Failed(f"{text}: exit code {code}\n{out}")
        return out

    def write(self, path, text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")

    def journal(self):
        return self.run(f"tail -n 60 {self.directory}/log")[1]

    def result(self):
        return "success" if self.process.returncode == 0 else f"exit code {self.process.returncode}"

    def service(self, verb):
        """As systemd would do it: code and what is to be said about it."""
        if verb in ("stop", "restart"):
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                return 1, "it does not end"
        if verb in ("start", "restart"):
            with open(f"{self.directory}/log", "ab") as log:
                self.process = subprocess.Popen(["fullgate", "--config", self.configuration],
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            end = time.monotonic() + 180
            while self.run(f"{self.administration} version")[0]:
                if self.process.poll() is not None:
                    return 1, f"it ended with {self.process.returncode}"
                if time.monotonic() > end:
                    return 1, "it does not get ready"
                time.sleep(0.1)
        if verb == "reload":
            self.process.send_signal(signal.SIGHUP)
        return 0, ""

    def crash(self):
        """kill -9, and another start."""
        self.process.kill()
        self.process.wait()
        code, out = self.service("start")
        if code:
            raise Failed(f"a start after kill -9: {out}\n{self.journal()}")

    def set_link(self, nic, up):
        nic.namespace.set_link(up)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def take(self):
        """The interfaces into their namespaces; where those end, the kernel gives
        them back."""
        for cable in self.nics.values():
            if not os.path.exists(f"/sys/class/net/{cable.interface}"):
                raise Failed(f"there is no interface {cable.interface}")
            cable.namespace.take(cable.interface)
