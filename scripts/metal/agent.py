"""Runs in the guest: commands that come over a virtio serial port, one a line.

A request is {"run": SHELL TEXT, "timeout": SECONDS}, its answer {"code", "out"};
the first line after the start is {"boot": ID}.
"""

import glob
import json
import os
import signal
import subprocess
import time


def port():
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name, encoding="ascii") as file:
                if file.read().strip() == "agent":
                    return open("/dev/" + name.split("/")[-2], "r+b", buffering=0)
        time.sleep(0.2)


def run(text, timeout):
    # A session of its own, so that a time-out ends all that the shell started.
    process = subprocess.Popen(
        ["/bin/sh", "-c", text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        return {"code": 124, "out": out.decode(errors="replace")}
    return {"code": process.returncode, "out": out.decode(errors="replace")}


def main():
    serial = port()

    def answer(message):
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[serial.write(data) :]

    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        answer({"boot": file.read().strip()})
    waiting = b""
    while True:
        data = serial.read(65536)
        if not data:
            # The other end is not there yet, or not any more.
            time.sleep(0.2)
            continue
        waiting += data
        while b"\n" in waiting:
            line, waiting = waiting.split(b"\n", 1)
            request = json.loads(line)
            answer(run(request["run"], request["timeout"]))


main()
