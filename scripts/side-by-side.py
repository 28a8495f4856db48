#!/usr/bin/env python3
"""The measuring and reporting part of scripts/side-by-side.

`measure` runs one load and appends one JSON line: what the load says, and the
CPU time meanwhile. `report` makes the table out of those lines.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

TICK = os.sysconf("SC_CLK_TCK")

# Cores that other programs may take from a measurement before it is repeated.
QUIET = 0.15

WRK_SCRIPT = """\
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(
        'JSON {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000,
        latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
"""

# Columns of /proc/stat; guest time is in "user" already.
MACHINE = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]


def machine():
    """CPU seconds of the whole machine since boot, by kind."""
    with open("/proc/stat") as file:
        values = file.readline().split()[1:]
    return {name: int(value) / TICK for name, value in zip(MACHINE, values)}


def processes(pids):
    """User and system CPU seconds of living processes, all threads."""
    sums = {"user": 0.0, "system": 0.0}
    for pid in pids:
        # The name in parentheses may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        sums["user"] += int(fields[11]) / TICK
        sums["system"] += int(fields[12]) / TICK
    return sums


def children():
    """The same of this process' ended children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"user": usage.ru_utime, "system": usage.ru_stime}


def ksoftirqd():
    """The kernel's threads for packets that no process' context took care of."""
    names = Path("/proc").glob("[0-9]*/comm")
    return [file.parent.name for file in names if file.read_text().startswith("ksoftirqd/")]


def timeouts(namespaces):
    """Retransmission timers that have run out in the namespaces."""
    total = 0
    for name in namespaces:
        command = ["ip", "netns", "exec", name, "cat", "/proc/net/netstat"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in lines.splitlines()]
        for names, values in zip(rows[::2], rows[1::2]):
            if "TCPTimeouts" in names:
                total += int(values[names.index("TCPTimeouts")])
    return total


def difference(before, after):
    return {name: round(after[name] - before[name], 4) for name in after}


def parse(kind, output):
    """What a load said about itself."""
    if kind in ("keep-alive", "one-shot"):
        line = next(line for line in output.splitlines() if line.startswith("JSON "))
        said = json.loads(line[len("JSON "):])
        said["per_second"] = said["requests"] / said["seconds"]
        return said
    said = json.loads(output)
    if "error" in said:
        raise ValueError(said["error"])
    received = said["end"]["sum_received"]
    return {"gbit_per_second": received["bits_per_second"] / 1e9, "bytes": received["bytes"]}


def run_once(arguments, pids):
    """One run of the load: what it said, and what the CPUs did meanwhile."""
    namespaces = arguments.namespaces.split(",")
    timeouts_before = timeouts(namespaces)
    client_before = children()
    before = {name: processes(list_) for name, list_ in pids.items()}
    machine_before, clock_before = machine(), time.monotonic()
    load = subprocess.run(arguments.load, capture_output=True, text=True, check=False)
    wall = time.monotonic() - clock_before
    cpu = {"machine": difference(machine_before, machine())}
    for name, list_ in pids.items():
        cpu[name] = difference(before[name], processes(list_))
    cpu["client"] = difference(client_before, children())
    result = {
        "contender": arguments.contender,
        "round": arguments.round,
        "kind": arguments.kind,
        "wall_seconds": round(wall, 3),
        "cpu_seconds": cpu,
        "timeouts": timeouts(namespaces) - timeouts_before,
    }
    result["other_cores"] = round(others(result), 3)
    try:
        result.update(parse(arguments.kind, load.stdout))
    except (ValueError, KeyError, StopIteration) as error:
        result["failed"] = f"{error} {load.stderr.strip()}".strip()
    return result


def measure(arguments):
    pids = {
        "gateway": [pid for pid in arguments.gateway.split(",") if pid],
        "servers": arguments.servers.split(","),
        "ksoftirqd": ksoftirqd(),
    }
    try:
        result = run_once(arguments, pids)
        while result["other_cores"] > QUIET and time.time() < arguments.patience_ends:
            time.sleep(1)
            again = run_once(arguments, pids)
            if again["other_cores"] < result["other_cores"]:
                result = again
    except FileNotFoundError as error:
        result = {
            "contender": arguments.contender,
            "round": arguments.round,
            "kind": arguments.kind,
            "failed": f"gateway or server ended: {error.filename}",
        }
    if "failed" in result:
        print(f"  {arguments.kind}: failed: {result['failed']}", file=sys.stderr)
    with open(arguments.results, "a") as file:
        file.write(json.dumps(result) + "\n")


def own(run):
    """CPU seconds of everybody in the run; what the kernel does with packets it
    does in their names, too, or in ksoftirqd's."""
    cpu = run["cpu_seconds"]
    return sum(sum(cpu[name].values()) for name in ("gateway", "servers", "client", "ksoftirqd"))


def others(run):
    """Cores that user programs took which have nothing to do with the run."""
    cpu = run["cpu_seconds"]
    in_run = sum(cpu[name]["user"] for name in ("gateway", "servers", "client"))
    foreign = cpu["machine"]["user"] + cpu["machine"]["nice"] - in_run
    return max(0.0, foreign) / run["wall_seconds"]


def summary(runs):
    """The medians of one contender's runs, by kind."""
    good = [run for run in runs if "failed" not in run]

    def middle(kind, value):
        values = [value(run) for run in good if run["kind"] == kind]
        return median(values) if values else None

    def cores(kind, who, what):
        return middle(kind, lambda run: run["cpu_seconds"][who][what] / run["wall_seconds"])

    return {
        "keep_alive_per_second": middle("keep-alive", lambda run: run["per_second"]),
        "keep_alive_p99_ms": middle("keep-alive", lambda run: run["p99_ms"]),
        "connections_per_second": middle("one-shot", lambda run: run["per_second"]),
        "to_server_gbit": middle("to-server", lambda run: run["gbit_per_second"]),
        "to_client_gbit": middle("to-client", lambda run: run["gbit_per_second"]),
        "gateway_user_cores": cores("keep-alive", "gateway", "user"),
        "gateway_system_cores": cores("keep-alive", "gateway", "system"),
        "gateway_user_us": middle(
            "keep-alive", lambda run: run["cpu_seconds"]["gateway"]["user"] * 1e6 / run["requests"]),
        "softirq_cores": cores("keep-alive", "machine", "softirq"),
        "own_us": middle("keep-alive", lambda run: own(run) * 1e6 / run["requests"]),
        "own_us_one_shot": middle("one-shot", lambda run: own(run) * 1e6 / run["requests"]),
        "other_cores": median(run["other_cores"] for run in good) if good else None,
        "errors": sum(run.get("errors", 0) for run in good),
        "failed": len(runs) - len(good),
        "timeouts": sum(run["timeouts"] for run in good),
    }


COLUMNS = [
    ("requests/s, keep-alive", "keep_alive_per_second", "{:,.0f}"),
    ("p99, ms", "keep_alive_p99_ms", "{:.2f}"),
    ("new connections/s", "connections_per_second", "{:,.0f}"),
    ("Gbit/s to server", "to_server_gbit", "{:.1f}"),
    ("Gbit/s to client", "to_client_gbit", "{:.1f}"),
    ("CPU of all, µs/request", "own_us", "{:.1f}"),
    ("softirq, cores", "softirq_cores", "{:.2f}"),
    ("gateway process, cores: system", "gateway_system_cores", "{:.2f}"),
    ("user", "gateway_user_cores", "{:.2f}"),
    ("user, µs/request", "gateway_user_us", "{:.2f}"),
    ("timeouts", "timeouts", "{}"),
    ("other programs, cores", "other_cores", "{:.2f}"),
]


def pairs(path):
    if not Path(path).exists():
        return {}
    lines = Path(path).read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines)


def version(*command):
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        return (said.stdout or said.stderr).splitlines()[0].strip()
    except (OSError, IndexError):
        return "unknown"


def about(arguments, runs):
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), "unknown")
    runs = [run for run in runs if "cpu_seconds" in run]
    wall = sum(run["wall_seconds"] for run in runs) or 1
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": arguments.commit,
        "load": arguments.command,
        "machine": f"{os.cpu_count()} cores, {cpu}, Linux {platform.release()}",
        "versions": [version("nft", "--version"), version("haproxy", "-v"),
                     version("nginx", "-v"), version("iperf3", "--version")],
        "steal_cores": round(sum(r["cpu_seconds"]["machine"]["steal"] for r in runs) / wall, 2),
    }


def report(arguments):
    titles, missing = pairs(arguments.titles), pairs(arguments.unavailable)
    runs = [json.loads(line) for line in Path(arguments.results).read_text().splitlines()]
    contenders = {
        name: summary([run for run in runs if run["contender"] == name])
        for name in titles
    }
    facts = about(arguments, runs)
    print(f"{facts['date']}, commit {facts['commit']}; {facts['machine']}")
    print(f"{'; '.join(facts['versions'])}")
    print(f"{facts['load']}; medians; {facts['steal_cores']} cores lost to other guests\n")
    print("| between client and server | " + " | ".join(name for name, _, _ in COLUMNS) + " |")
    print("| --- |" + " ---: |" * len(COLUMNS))
    for name, title in titles.items():
        if name in missing and not any(run["contender"] == name for run in runs):
            print(f"| {title} | not available: {missing[name]} |" + " |" * (len(COLUMNS) - 1))
            continue
        row = contenders[name]
        cells = ["failed" if row[key] is None else form.format(row[key]) for _, key, form in COLUMNS]
        print(f"| {title} | " + " | ".join(cells) + " |")
    for name, row in contenders.items():
        if row["errors"] or row["failed"]:
            print(f"\n{titles[name]}: {row['errors']} requests and {row['failed']} runs failed.")
    for name in missing:
        if any(run["contender"] == name for run in runs):
            print(f"\n{titles[name]}: did not start again: {missing[name]}")
    if arguments.json:
        everything = {"about": facts, "medians": contenders, "unavailable": missing, "runs": runs}
        Path(arguments.json).write_text(json.dumps(everything, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("wrk-script")
    one = commands.add_parser("measure")
    for name in ("results", "contender", "kind", "gateway", "servers", "namespaces"):
        one.add_argument(f"--{name}", required=True)
    one.add_argument("--round", required=True, type=int)
    one.add_argument("--patience-ends", required=True, type=float)
    one.add_argument("load", nargs="+")
    table = commands.add_parser("report")
    for name in ("results", "titles", "unavailable", "json", "commit", "command"):
        table.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    if arguments.what == "wrk-script":
        print(WRK_SCRIPT, end="")
    elif arguments.what == "measure":
        measure(arguments)
    else:
        report(arguments)


main()
