"""What scripts/test-metal asserts; see there.

    test.py IMAGE DIRECTORY [--fault NAME] [--kills N]
    test.py - DIRECTORY --on-this-host WAN LAN [--runtime LINE] [--kills N]
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import sys
import threading
import time

from guest import Failed, Guest, Nic, qemu_has
from host import Cable, Host
from peers import Load, Namespace, Web, first_answer, serve, udp_exchange

VIP = "198.51.100.100"
WEB = (VIP, 80)
DNS = (VIP, 53)
SHORT = (VIP, 81)
CLIENT = "198.51.100.50"
SERVERS = ["10.20.1.1", "10.20.1.2"]
PAGES = 160
FLOWS = 120

# What must go wrong if it is broken on purpose, by the name of the assertion.
FAULTS = {
    "rss-off": "steering of wan",
    "no-iommu": "preflight is satisfied",
    "few-hugepages": "preflight finds enough huge pages",
}


class Report:
    def __init__(self):
        self.start = time.monotonic()
        self.passed = 0
        self.failed = []
        self.skipped = []

    def line(self, word, what, figure):
        print(f"{time.monotonic() - self.start:6.1f} s  {word:7} {what}{': ' if figure != '' else ''}{figure}", flush=True)

    def check(self, what, good, figure=""):
        if good:
            self.passed += 1
        else:
            self.failed.append(what)
        self.line("ok" if good else "FAILED", what, figure)
        return good

    def skip(self, what, why):
        self.skipped.append(what)
        self.line("skipped", what, why)

    @contextlib.contextmanager
    def part(self, name):
        """A part whose failure does not keep the others from being tried."""
        print(f"\n{name}", flush=True)
        try:
            yield
        except (Failed, OSError) as error:
            self.check(f"{name}, to its end", False, error)

    def attempt(self, what, action):
        """Passes if it raises nothing; its result is the figure."""
        start = time.monotonic()
        try:
            figure = action()
        except OSError as error:
            return self.check(what, False, str(error) or repr(error))
        took = f"{time.monotonic() - start:.2f} s"
        return self.check(what, True, took if figure is None else figure)


def steered(port):
    return f"{port['steering']}, driver {port['driver']}; the NIC: {port['nic']}; {port['steering_reason'] or 'as asked'}"


def configuration(runtime, nics, wan_mtu=1500, lan_mtu=1500):
    servers = "".join(f'[[service.server]]\naddress = "{server}:%s"\n' for server in SERVERS)
    return f"""
[runtime]
{runtime}
[[port]]
name = "wan"
device = "{nics['wan'].device}"
addresses = ["198.51.100.2/24"]
mtu = {wan_mtu}

[[port]]
name = "lan"
device = "{nics['lan'].device}"
addresses = ["10.20.0.2/16"]
mtu = {lan_mtu}

[[pool]]
name = "default"
addresses = ["10.20.0.10-10.20.0.11"]

[[service]]
name = "web"
vip = "{VIP}:80"
{servers.replace("%s", "80")}
[[service]]
name = "dns"
vip = "{VIP}:53"
protocol = "udp"
{servers.replace("%s", "53")}
[[service]]
name = "short"
vip = "{VIP}:81"
timeouts = {{ half-closed = "1s", closed = "100ms" }}
{servers.replace("%s", "81")}"""


class Test:
    def __init__(self, report, guest, client, server):
        self.report = report
        self.guest = guest
        self.client = client
        self.server = server

    # The gateway.

    def configure(self, **settings):
        self.guest.write(self.guest.configuration,
                         configuration(self.guest.runtime, self.guest.nics, **settings))

    def ctl(self, words):
        return json.loads(self.guest.must(f"{self.guest.administration} --json {words}"))

    def ports(self):
        return {port["name"]: port for port in self.ctl("show ports")["ports"]}

    def workers(self):
        return self.ctl("show workers")["workers"]

    def service(self, verb):
        start = time.monotonic()
        code, out = self.guest.service(verb)
        if code:
            raise Failed(f"{verb}: {out}\n{self.guest.journal()}")
        return f"{time.monotonic() - start:.1f} s"

    def free_pages(self):
        return int(re.search(r"HugePages_Free:\s*(\d+)", self.guest.must("cat /proc/meminfo"))[1])

    def bind(self, name):
        """To vfio-pci, without the tool: which takes long here."""
        path = f"/sys/bus/pci/devices/{self.guest.nics[name].pci}"
        pci = self.guest.nics[name].pci
        self.guest.must(f"modprobe vfio-pci; echo vfio-pci > {path}/driver_override; "
                        f"test ! -e {path}/driver || echo {pci} > {path}/driver/unbind; "
                        f"echo {pci} > /sys/bus/pci/drivers_probe; "
                        f"readlink {path}/driver | grep -q vfio-pci")

    def preflight(self):
        code, out = self.guest.run(f"fullgate preflight --config {self.guest.configuration}", 120)
        return code, out, [line for line in out.splitlines() if line.startswith("wrong")]

    # The parts, in order.

    def boot(self):
        start = time.monotonic()
        self.guest.start()
        for address in SERVERS:
            serve(self.server, address)
        self.first_boot = self.guest.booted()
        self.report.check("the guest boots", True, f"{time.monotonic() - start:.1f} s")
        self.report.line("", "kernel, DPDK", self.guest.must(
            "uname -r; dpkg-query -W -f '${Version}' librte-meta-net").replace("\n", ", "))

    def steps(self, pages, fault):
        """docs/hardware.md, with preflight before and after each step."""
        check = self.report.check
        self.configure()
        code, out = self.guest.run("fullgate check")
        check("the configuration is right", code == 0, out.strip())
        code, out, wrong = self.preflight()
        check("preflight misses huge pages", any("hugepages" in line for line in wrong), f"exit code {code}, {len(wrong)} wrong")
        check("preflight names the kernel's drivers", sum("driver" in line and "virtio" in line for line in wrong) == 2)
        check("preflight says how to take the links down", len(re.findall(r"ip link set \S+ down", out)) == 2)

        self.guest.must(f"echo {pages} > /proc/sys/vm/nr_hugepages; "
                        f"echo 'vm.nr_hugepages = {pages}' > /etc/sysctl.d/90-fullgate.conf")
        code, out, wrong = self.preflight()
        enough = check("preflight finds enough huge pages", not any("hugepages" in line for line in wrong),
                       [line for line in out.splitlines() if "hugepages" in line][-1])
        if fault == "few-hugepages" and not enough:
            return

        for nic in self.guest.nics.values():
            start = time.monotonic()
            self.guest.run("modprobe vfio-pci; "
                           f"for i in /sys/bus/pci/devices/{nic.pci}/virtio*/net/*; do ip link set ${{i##*/}} down; done; "
                           f"dpdk-devbind.py --bind=vfio-pci {nic.pci}", 180)
            driver = self.guest.run(f"readlink /sys/bus/pci/devices/{nic.pci}/driver")[1].strip().rpartition("/")[2] or "no driver"
            check(f"{nic.name} is bound", driver == "vfio-pci", f"{driver}, {time.monotonic() - start:.1f} s")
        code, out, wrong = self.preflight()
        check("preflight is satisfied", code == 0, "; ".join(wrong) if wrong else out.strip().splitlines()[-1])
        for line in out.splitlines():
            if line.startswith("advice"):
                self.report.line("", line, "")

    def start(self):
        self.pages = self.free_pages()
        with self.listening() as announced:
            self.report.check("start", True, self.service("start"))
            seconds = first_answer(self.client, WEB, 60)
            self.report.check("the first request", seconds is not None, f"{seconds and round(seconds, 2)} s after the start")
            time.sleep(4)
        self.report.check("the VIP is announced", VIP in announced, f"{announced.count(VIP)} times")

    def steering(self):
        for name, port in self.ports().items():
            self.report.check(f"steering of {name}", port["steering"] == "rss", steered(port))

    @contextlib.contextmanager
    def listening(self):
        """The addresses that are announced to clients meanwhile."""
        announced = []
        with self.client.inside():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        sock.settimeout(0.2)
        done = threading.Event()

        def listen():
            while not done.is_set():
                with contextlib.suppress(OSError):
                    frame = sock.recv(2000)
                    # Sender and target are the same.
                    if len(frame) >= 42 and frame[28:32] == frame[38:42]:
                        announced.append(socket.inet_ntoa(frame[28:32]))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield announced
        done.set()
        thread.join()
        sock.close()

    def spread(self):
        """Flows over both workers, each packet straight to its owner."""
        before = self.workers()
        webs, slowest, errors = [], [], []
        for _ in range(FLOWS):
            start = time.monotonic()
            try:
                web = Web(self.client, WEB)
                webs.append(web)
                web.get(1000)
                slowest.append(time.monotonic() - start)
            except OSError as error:
                errors.append(str(error))
        after = self.workers()
        self.report.check(f"{FLOWS} TCP flows", not errors,
                          f"{len(errors)} failed, median {statistics.median(slowest) * 1000:.1f} ms, longest {max(slowest) * 1000:.1f} ms")
        self.report.check("no connection waited for a second", max(slowest) < 1, f"{max(slowest) * 1000:.1f} ms")
        spread = [b["connections"] - a["connections"] for a, b in zip(before, after)]
        self.report.check("every worker has TCP flows", min(spread) > FLOWS / 10, spread)
        servers = [web.server for web in webs]
        self.report.check("both servers have flows", all(abs(servers.count(server) - FLOWS / 2) <= 2 for server in SERVERS),
                          [servers.count(server) for server in SERVERS])
        for web in webs:
            web.close()
        before = self.workers()
        lost, slowest = 0, [0.0]
        for number in range(FLOWS):
            try:
                slowest.append(udp_exchange(self.client, DNS, f"flow {number}".encode()))
            except OSError:
                lost += 1
        after = self.workers()
        self.report.check(f"{FLOWS} UDP flows", lost == 0, f"{lost} lost, longest {max(slowest) * 1000:.1f} ms")
        received = [b["rx_packets"] - a["rx_packets"] for a, b in zip(before, after)]
        self.report.check("every worker has UDP flows", min(received) > FLOWS / 5, f"{received} packets")

    def handed_over(self):
        handed = sum(worker["handed_over"] for worker in self.workers())
        self.report.check("handed over", handed == 0, handed)

    def traffic(self):
        code, out = self.client.run("ping", "-n", "-c", "20", "-i", "0.05", "-W", "2", VIP)
        self.report.check("20 pings to the VIP", code == 0 and " 0% packet loss" in out, out.strip().splitlines()[-1])

        self.transfer("20 MB down, intact", "lan", lambda web: web.get(20_000_000))
        self.transfer("10 MB up, intact", "wan", lambda web: web.post(10_000_000))

    def transfer(self, what, port, action, most=None):
        """In at most so many packets, if it is said."""
        def run():
            before, start = self.ports()[port]["rx_packets"], time.monotonic()
            with Web(self.client, WEB, timeout=60) as web:
                action(web)
            took = time.monotonic() - start
            packets = self.ports()[port]["rx_packets"] - before
            if most is not None and packets > most:
                raise OSError(f"{packets} packets: they were small")
            return f"{took:.2f} s, {packets} packets in by {port}"

        self.report.attempt(what, run)

    def fragments(self):
        # NICs spread fragments by their addresses alone: handing over is right.
        def exchange():
            for _ in range(20):
                udp_exchange(self.client, DNS, os.urandom(4000))

        self.report.attempt("20 UDP datagrams of 4,000 bytes in fragments", exchange)

    def stories(self):
        """The two of docs/never-a-second.md, on these NICs."""
        quick = 0.5

        def ask(source):
            with self.client.inside():
                stream = socket.socket()
            stream.settimeout(5)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stream.bind(source)
            start = time.monotonic()
            stream.connect(SHORT)
            took = time.monotonic() - start
            stream.sendall(b"?")
            if stream.recv(1) != b"?" or stream.recv(1) != b"":
                raise OSError("the server did not answer and close")
            return stream, took

        def close(stream):
            # Waits until the FIN is acknowledged, or answered.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\5\0\0\0")
            start = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                stream.close()
            return time.monotonic() - start

        longest = 0.0
        for number in range(10):
            stream, _ = ask((CLIENT, 41000 + number))
            if number == 0:
                time.sleep(2.5)
            longest = max(longest, close(stream))
        self.report.check("story 1: the client closes later", longest < quick, f"longest {longest * 1000:.1f} ms")
        longest = 0.0
        for _ in range(100):
            stream, took = ask((CLIENT, 42000))
            longest = max(longest, took, close(stream))
        self.report.check("story 2: a source port used 100 times", longest < quick, f"longest {longest * 1000:.1f} ms")

    def operations(self):
        """A reload and a capture, with requests all the time."""
        load = Load(self.client, WEB)
        time.sleep(2)
        for _ in range(3):
            self.service("reload")
        time.sleep(1)
        load.stop()
        self.report.check("3 reloads under load", not load.errors and load.longest < 1,
                          f"{load.requests} requests, longest {load.longest * 1000:.0f} ms, errors {load.errors[:2]}")
        load = Load(self.client, WEB)
        capture = f"{self.guest.scratch}/c.pcapng"
        code, out = self.guest.run(f"{self.guest.administration} capture service web -w {capture} --duration 3s", 60)
        load.stop()
        frames = self.guest.must(f"tcpdump -r {capture} 2>/dev/null | wc -l").strip()
        self.report.check("a capture under load", code == 0 and int(frames) > 50 and not load.errors and load.longest < 1,
                          f"{frames} packets of {load.requests} requests, longest {load.longest * 1000:.0f} ms, {out.strip()}")

    def link(self):
        for nic in self.guest.nics.values():
            self.guest.set_link(nic, False)
            down = self.wait(lambda: not self.ports()[nic.name]["link_up"])
            if not down and not self.guest.is_emulated:
                self.report.skip(f"the link of {nic.name} goes down", "it stays up when the other end is set down")
                self.guest.set_link(nic, True)
                continue
            self.report.check(f"the link of {nic.name} goes down", down)
            with self.listening() as announced:
                self.guest.set_link(nic, True)
                self.report.check(f"the link of {nic.name} comes up", self.wait(lambda: self.ports()[nic.name]["link_up"]))
                seconds = first_answer(self.client, WEB, 20)
                self.report.check("traffic after it", seconds is not None and seconds < 5, f"{seconds and round(seconds, 2)} s")
                time.sleep(3)
            if nic.name == "wan":
                self.report.check("the VIP is announced after it", VIP in announced, f"{announced.count(VIP)} times")
            journal = self.guest.journal()
            for what in "down", "up":
                line = re.search(rf"port {nic.name}: .*\b{what}\b.*", journal)
                self.report.check(f"the journal tells that {nic.name} went {what}", line, line[0] if line else "nothing")

    def wait(self, condition, within=15):
        """What it gives once it is true of that; None if it never is."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if met := condition():
                return met
            time.sleep(0.5)
        return None

    def kills(self, times):
        back = []
        for number in range(times):
            self.guest.crash()
            seconds = first_answer(self.client, WEB, 60)
            if seconds is None:
                self.report.check(f"kill -9, {number + 1}: traffic again", False, f"not within 60 s\n{self.guest.journal()}")
                continue
            # And it stays.
            load = Load(self.client, WEB, threads=1)
            time.sleep(12)
            load.stop()
            back.append(seconds)
            self.report.check(f"kill -9, {number + 1}: traffic again, and for 12 s more", not load.errors and load.longest < 1,
                              f"{seconds:.1f} s; {load.requests} requests, longest {load.longest * 1000:.0f} ms, errors {load.errors[:2]}")
        if back:
            self.report.check(f"kill -9: back in {times} of {times} tries", len(back) == times,
                              f"median {statistics.median(back):.1f} s, longest {max(back):.1f} s")

    def watchdog(self):
        was = self.guest.unit("MainPID")
        start = time.monotonic()
        self.guest.must("systemctl kill -s STOP fullgate")
        restarted = self.wait(lambda: self.guest.unit("MainPID") not in (was, "0") and self.guest.unit("ActiveState") == "active", 120)
        self.report.check("the watchdog restarts a gateway that stands", restarted, f"{time.monotonic() - start:.0f} s")
        seconds = first_answer(self.client, WEB, 60)
        self.report.check("traffic after it", seconds is not None, f"{seconds and round(seconds, 2)} s")

    def stop(self):
        self.report.check("restart", True, self.service("restart"))
        self.report.check("traffic after it", first_answer(self.client, WEB, 30) is not None)
        self.report.check("stop", True, self.service("stop"))
        result = self.guest.result()
        self.report.check("it ended well", result == "success", result)
        free = self.free_pages()
        self.report.check("all huge pages are back", free == self.pages, f"{free} of {self.pages} free")

    def jumbo(self):
        """Frames of 9,000 bytes behind, then on both sides."""
        self.configure(lan_mtu=9000)
        self.server.mtu(9000)
        code, out = self.guest.service("start")
        refused = re.search(r"port .*MTU 9000: .*", self.guest.journal())
        if code and refused and not self.guest.is_emulated:
            self.report.skip("frames of 9,000 bytes", refused[0])
            return
        if code:
            raise Failed(f"start: {out}\n{self.guest.journal()}")
        first_answer(self.client, WEB, 30)
        lost = 0
        for _ in range(6):
            try:
                udp_exchange(self.client, DNS, os.urandom(4000))
            except OSError:
                lost += 1
        self.report.check("the server heeds \"fragmentation needed\"", 0 < lost <= 2, f"{lost} of 6 datagrams lost until it did")
        self.service("stop")
        self.configure(wan_mtu=9000, lan_mtu=9000)
        self.client.mtu(9000)
        self.server.mtu(9000)
        self.service("start")
        first_answer(self.client, WEB, 30)
        self.transfer("20 MB down in jumbo frames, intact", "lan", lambda web: web.get(20_000_000), 5000)
        self.transfer("10 MB up in jumbo frames, intact", "wan", lambda web: web.post(10_000_000), 2500)
        code, out = self.client.run("ping", "-n", "-c", "5", "-i", "0.05", "-s", "8000", "-M", "do", "-W", "2", VIP)
        self.report.check("5 jumbo pings", " 0% packet loss" in out, out.strip().splitlines()[-1])
        self.service("stop")
        self.configure()
        self.client.mtu(1500)
        self.server.mtu(1500)

    def exchange(self, name, model, steering):
        """Another NIC. Where it can't be told to spread flows as the gateway
        needs it, the gateway does that in software."""
        self.guest.exchange(name, model)
        self.bind(name)
        self.report.check(f"a start with {model} as {name}", True, self.service("start"))
        port = self.ports()[name]
        self.report.check(f"steering of {model}", port["steering"] == steering, steered(port))
        seconds = first_answer(self.client, WEB, 30)
        self.report.check("traffic", seconds is not None, f"{seconds and round(seconds, 2)} s")
        self.spread()
        self.transfer("5 MB down, intact", "lan", lambda web: web.get(5_000_000))
        self.transfer("5 MB up, intact", "wan", lambda web: web.post(5_000_000))
        self.service("stop")

    def back_to_virtio(self, name):
        self.guest.exchange(name, "virtio-net-pci")
        self.bind(name)

    def silent(self, name):
        """A virtio NIC that knows nothing of the IOMMU it is behind: it never
        answers."""
        self.guest.exchange(name, "virtio-net-pci", {"iommu_platform": "off"})
        self.bind(name)
        start = time.monotonic()
        self.guest.must("systemctl start --no-block fullgate")
        # Which step waits is the driver's matter: the probe, or the opening.
        step = rf"(?:{self.guest.nics[name].pci}|port {name}).*"
        said = self.wait(lambda: re.search(step, self.guest.unit("StatusText")), 20)
        self.report.check("systemctl status tells which device is waited for", said, said and said[0])
        said = self.wait(lambda: re.search(rf"{step}: no answer for \d+ s yet", self.guest.journal()), 60)
        self.report.check("the journal tells it, too", said, f"{time.monotonic() - start:.0f} s, {said and said[0]}")
        said = self.wait(lambda: re.search(rf"{step}: no answer for \d+ s; .*", self.guest.journal()), 180)
        self.report.check("a start that hangs is given up", said, f"{time.monotonic() - start:.0f} s, {said and said[0]}")
        self.wait(lambda: re.search(step, self.guest.unit("StatusText")), 60)
        took = self.service("stop")
        result = self.guest.unit("Result")
        self.report.check("a stop during the next one needs no SIGKILL", result == "success", f"{result}, {took}")

    def reboot(self):
        lines = "\n".join(f"pci {nic.pci} vfio-pci" for nic in self.guest.nics.values())
        self.guest.write("/etc/dpdk/interfaces", lines)
        self.guest.must("systemctl enable dpdk fullgate 2>&1", 120)
        bound = re.findall(r"ok +boot .*/etc/dpdk/interfaces", self.preflight()[1])
        self.report.check("preflight says that the NICs are bound at the next boot", len(bound) == 2, f"{len(bound)} of 2")
        start = time.monotonic()
        self.guest.reboot()
        # Before the agent can be asked: by itself.
        seconds = first_answer(self.client, WEB, 600)
        self.report.check("traffic after a reboot by itself", seconds is not None, f"{seconds and round(seconds, 1)} s")
        boot = self.guest.booted()
        self.report.check("it was another boot", boot != self.first_boot, f"{time.monotonic() - start:.0f} s")
        restarts = self.guest.unit("NRestarts")
        self.report.check("NRestarts", restarts == "0", restarts)
        self.steering()

    def at_work(self, kills):
        """From traffic to the stop, whatever the ports are."""
        report = self.report
        with report.part("Traffic"):
            self.traffic()
            self.stories()
            if self.guest.is_emulated:
                self.handed_over()
            self.fragments()
        with report.part("Operation under load"):
            self.operations()
        with report.part("Links"):
            self.link()
        with report.part("kill -9"):
            self.kills(kills)
        if self.guest.is_emulated:
            with report.part("Watchdog"):
                self.watchdog()
        with report.part("Restart and stop"):
            self.stop()
        with report.part("Large frames"):
            self.jumbo()

    def cabled(self, options):
        """What can be asked of any two ports that are cabled to two interfaces."""
        report = self.report
        with report.part("The steps of docs/hardware.md"):
            self.configure()
            code, out, wrong = self.preflight()
            report.check("preflight is satisfied", code == 0, "; ".join(wrong) if wrong else out.strip().splitlines()[-1])
            self.guest.take()
            for address in SERVERS:
                serve(self.server, address)
        if report.failed:
            return
        with report.part("Start"):
            self.start()
        if report.failed:
            return
        with report.part("Steering"):
            for name, port in self.ports().items():
                report.line("", f"steering of {name}", steered(port))
            self.spread()
            if all(port["steering"] == "rss" for port in self.ports().values()):
                self.handed_over()
        self.at_work(options.kills)

    def all(self, options):
        report = self.report
        with report.part("Boot"):
            self.boot()
        if report.failed:
            return
        with report.part("The steps of docs/hardware.md"):
            self.steps(PAGES if options.fault != "few-hugepages" else 20, options.fault)
        if options.fault in ("no-iommu", "few-hugepages"):
            return
        with report.part("Start"):
            self.start()
            report.check("the unit is active", self.guest.unit("ActiveState") == "active")
        with report.part("Steering"):
            self.steering()
            self.spread()
            self.handed_over()
            report.skip("the table of a NIC changed under us", "QEMU's monitor can't do that")
        if options.fault:
            return
        self.at_work(options.kills)
        for model, name, steering in (("e1000e", "lan", "software"), ("vmxnet3", "wan", "software"), ("igb", "wan", "rss")):
            if model not in qemu_has():
                report.skip(model, "this machine's QEMU does not emulate it")
                continue
            with report.part(f"{model} in place of virtio"):
                self.exchange(name, model, steering)
            with report.part(f"virtio in place of {model}"):
                self.back_to_virtio(name)
        with report.part("A device that does not answer"):
            self.silent("wan")
        with report.part("A device that answers again"):
            self.back_to_virtio("wan")
        with report.part("Reboot"):
            self.reboot()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("directory")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--on-this-host", nargs=2, metavar=("WAN", "LAN"))
    parser.add_argument("--runtime", action="append", default=[])
    options = parser.parse_args()
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))

    report = Report()
    with contextlib.ExitStack() as ends:
        names = "fgh" if options.on_this_host else "fgm"
        client = Namespace(f"{names}-client", [f"{CLIENT}/24"])
        ends.callback(client.remove)
        server = Namespace(f"{names}-server", [f"{address}/16" for address in SERVERS])
        ends.callback(server.remove)
        if options.on_this_host:
            wan, lan = options.on_this_host
            host = Host(options.directory, [Cable("wan", wan, client), Cable("lan", lan, server)], options.runtime)
            ends.callback(host.end)
            Test(report, host, client, server).cabled(options)
        else:
            nics = [Nic("wan", 1, client), Nic("lan", 2, server)]
            nics[0].rss = options.fault != "rss-off"
            guest = Guest(options.image, pathlib.Path(options.directory), nics, iommu=options.fault != "no-iommu")
            ends.callback(guest.end)
            Test(report, guest, client, server).all(options)

    took = time.monotonic() - report.start
    print(f"\n{report.passed} passed, {len(report.failed)} failed, {len(report.skipped)} skipped in {took:.0f} s")
    for what in report.failed:
        print(f"  FAILED {what}")
    if options.fault:
        found = FAULTS[options.fault] in report.failed
        print(f"With {options.fault}, \"{FAULTS[options.fault]}\" {'fails, as it must' if found else 'did not fail: THE TEST SEES NOTHING'}")
        return 0 if found else 1
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
