"""The guest: QEMU, its monitor, the agent in the guest, and the NICs' TAPs."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import time


class Failed(Exception):
    """Something that the test can't go on without did not happen."""


class Lines:
    """JSON messages, one a line, over a Unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.waiting = b""

    def send(self, message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout):
        end = time.monotonic() + timeout
        while b"\n" not in self.waiting:
            ready, _, _ = select.select([self.socket], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise Failed(f"no answer within {timeout} s")
            data = self.socket.recv(65536)
            if not data:
                raise Failed("the guest is gone")
            self.waiting += data
        line, self.waiting = self.waiting.split(b"\n", 1)
        return json.loads(line)


class Nic:
    """One of the guest's NICs: on a root port and a TAP of its own."""

    def __init__(self, name, number, namespace):
        self.name = name
        self.pci = f"0000:0{number}:00.0"
        self.device = self.pci
        self.mac = f"52:54:00:00:00:0{number}"
        self.tap = f"fgm-{name}"
        self.number = number
        self.namespace = namespace
        self.rss = True

    def options(self, model):
        device = {"driver": model, "id": self.name, "netdev": f"net-{self.name}",
                  "bus": f"root-{self.name}", "mac": self.mac}
        if model == "virtio-net-pci":
            device |= {"disable-legacy": "on", "iommu_platform": "on", "mq": "on", "vectors": "6",
                       "rss": "on" if self.rss else "off", "hash": "on" if self.rss else "off",
                       "host_mtu": "9000"}
        return device


def qemu_has():
    """The models that this machine's QEMU emulates."""
    out = subprocess.run(["qemu-system-x86_64", "-device", "help"], check=True, capture_output=True, text=True).stdout
    return re.findall(r'name "([^"]+)"', out)


def option(device):
    return ",".join([device["driver"]] + [f"{key}={value}" for key, value in device.items() if key != "driver"])


RUNTIME = """workers = 2
cores = [1, 2]
main-core = 0
connections = 20_000
memory = "192M"
idle-sleep = "100us"
"""


class Guest:
    is_emulated = True
    configuration = "/etc/fullgate/fullgate.toml"
    administration = "fullgatectl"
    scratch = "/tmp"
    runtime = RUNTIME

    def __init__(self, image, directory, nics, iommu=True):
        self.image = image
        self.directory = directory
        self.nics = {nic.name: nic for nic in nics}
        self.iommu = iommu
        self.process = None
        self.agent = None
        self.monitor = None
        # Of its own: what it writes is there after a reboot, and nowhere else.
        subprocess.run(["cp", "--sparse=always", f"{image}/image", f"{directory}/image"], check=True)

    def start(self):
        path = self.directory
        for name in "agent", "monitor":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}/{name}")
        # On a busy machine the emulated timer comes too late for the kernel's
        # check of it.
        kernel = "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"
        kernel += " tsc=reliable clocksource=tsc"
        kernel += " isolcpus=1,2 nohz_full=1,2 rcu_nocbs=1,2"
        if self.iommu:
            kernel += " intel_iommu=on iommu=pt"
        arguments = ["nice", "-n", "10", "qemu-system-x86_64", "-machine", "q35",
                     "-accel", "tcg,thread=multi", "-smp", "3", "-m", "1536",
                     # A model whose TSC the guest's kernel takes for constant.
                     "-cpu", "max,vendor=GenuineIntel,family=6,model=94,stepping=3,la57=off,pku=off",
                     "-nodefaults", "-display", "none",
                     "-chardev", f"file,id=console,path={path}/console,append=on", "-serial", "chardev:console",
                     "-kernel", f"{self.image}/vmlinuz", "-initrd", f"{self.image}/initrd", "-append", kernel,
                     "-drive", f"file={path}/image,format=raw,if=none,id=disk,cache=unsafe", "-no-reboot"]
        if self.iommu:
            arguments += ["-device", "intel-iommu,intremap=on"]
        for nic in self.nics.values():
            arguments += ["-device", f"pcie-root-port,id=root-{nic.name},chassis={nic.number},slot={nic.number},"
                                     f"bus=pcie.0,addr={nic.number}"]
        arguments += ["-device", "virtio-blk-pci,drive=disk,addr=0x10", "-device", "virtio-rng-pci,addr=0x11",
                      "-device", "virtio-serial-pci,addr=0x12",
                      "-chardev", f"socket,id=agent,path={path}/agent,server=on,wait=off",
                      "-device", "virtserialport,chardev=agent,name=agent",
                      "-qmp", f"unix:{path}/monitor,server=on,wait=off"]
        for nic in self.nics.values():
            arguments += ["-netdev", f"tap,id=net-{nic.name},ifname={nic.tap},queues=2,vhost=off,"
                                     "script=no,downscript=no",
                          "-device", option(nic.options("virtio-net-pci"))]
        with open(f"{path}/qemu", "wb") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not (os.path.exists(f"{path}/agent") and os.path.exists(f"{path}/monitor")):
            if self.process.poll() is not None or time.monotonic() > end:
                with open(f"{path}/qemu", encoding="utf-8", errors="replace") as log:
                    raise Failed(f"QEMU did not start: {log.read()}")
            time.sleep(0.1)
        self.agent = Lines(f"{path}/agent")
        self.monitor = Lines(f"{path}/monitor")
        self.monitor.receive(10)
        self.ask("qmp_capabilities")
        for nic in self.nics.values():
            nic.namespace.take(nic.tap)

    def booted(self, timeout=600):
        """Waits for the agent to say which boot it runs in."""
        return self.agent.receive(timeout)["boot"]

    def run(self, text, timeout=60):
        """A shell command in the guest: its exit code and output."""
        self.agent.send({"run": text, "timeout": timeout})
        answer = self.agent.receive(timeout + 60)
        return answer["code"], answer["out"]

    def must(self, text, timeout=60):
        code, out = self.run(text, timeout)
        if code:
            raise Failed(f"in the guest: {text}: exit code {code}\n{out}")
        return out

    def write(self, path, text):
        self.must(f"cat > {path} <<'END'\n{text}\nEND")

    def unit(self, what):
        return self.must(f"systemctl show -P {what} fullgate").strip()

    def result(self):
        return self.unit("Result")

    def journal(self):
        return self.run("journalctl -b -u fullgate -n 60 --no-pager -o cat")[1]

    def service(self, verb):
        return self.run(f"systemctl {verb} fullgate", 240)

    def crash(self):
        """kill -9; systemd starts another one."""
        was = self.unit("MainPID")
        self.must("systemctl kill -s KILL fullgate")
        end = time.monotonic() + 30
        while self.unit("MainPID") in (was, "0") and time.monotonic() < end:
            time.sleep(0.5)

    def set_link(self, nic, up):
        self.ask("set_link", name=nic.name, up=up)

    def ask(self, command, **arguments):
        """A command for QEMU's monitor."""
        self.monitor.send({"execute": command, "arguments": arguments})
        while True:
            answer = self.monitor.receive(60)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Failed(f"QEMU: {command}: {answer['error']['desc']}")

    def reboot(self):
        """As a machine that is switched off and on in between: the emulated one
        does not get through a warm reset every time."""
        self.must("setsid sh -c 'sleep 1; systemctl reboot' >/dev/null 2>&1 &")
        try:
            self.process.wait(180)
        except subprocess.TimeoutExpired as error:
            raise Failed("the guest did not shut down") from error
        self.start()

    def exchange(self, name, model, properties=None):
        """Another model of NIC in the place of this one."""
        nic = self.nics[name]
        self.ask("device_del", id=name)
        end = time.monotonic() + 60
        while True:
            try:
                self.ask("qom-list", path=f"/machine/peripheral/{name}")
            except Failed:
                break
            if time.monotonic() > end:
                raise Failed(f"the guest did not let go of {name}")
            time.sleep(0.5)
        path = f"/sys/bus/pci/devices/{nic.pci}"
        self.must(f"for i in $(seq 100); do test -e {path} || exit 0; sleep 0.3; done; exit 1")
        self.ask("device_add", **(nic.options(model) | (properties or {})))
        self.must(f"for i in $(seq 100); do test -e {path} && exec udevadm settle; sleep 0.3; done; exit 1")

    def end(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
