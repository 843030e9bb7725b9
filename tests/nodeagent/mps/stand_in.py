"""Stands in for nvidia-cuda-mps-control, and under its other name for nvidia-cuda-mps-server.

It speaks the same commands over a socket in the pipe directory. In the folder MPS_STAND_IN the
file `refuse` holds the words it refuses to start with, and each start adds a line to `starts`.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

PIPE = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/nowhere"))
TOLD = Path(os.environ.get("MPS_STAND_IN", "/nowhere"))


def connect():
    """Connect to the daemon of the pipe directory; raises OSError if there is none."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(PIPE / "control"))
    return client


def tell():
    """Pass a command on and print the answer."""
    try:
        client = connect()
    except OSError:
        print("Cannot find MPS control daemon process")
        return 1
    client.sendall(sys.stdin.read().encode())
    client.shutdown(socket.SHUT_WR)
    while part := client.recv(4096):
        sys.stdout.write(part.decode())
    return 0


def daemonise():
    """Start the daemon and return once it listens."""
    if (TOLD / "refuse").is_file():
        print((TOLD / "refuse").read_text(), file=sys.stderr)
        return 1
    with (TOLD / "starts").open("a") as file:
        file.write(f"{PIPE}\n")
    try:
        connect()
    except OSError:
        pass
    else:
        print("An instance of this daemon is already running", file=sys.stderr)
        return 1
    (PIPE / "control").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(PIPE / "control"))
    listener.listen(16)
    if os.fork():
        return 0
    os.setsid()
    (PIPE / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
    with (Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]) / "control.log").open("a") as log:
        log.write("Starting control daemon\n")
    serve(listener)
    return 0


def serve(listener):
    """Obey until told to quit."""
    servers = []
    while True:
        peer, _ = listener.accept()
        command = peer.recv(4096).decode().split()
        answer = ""
        if command[:1] == ["get_server_list"]:
            servers = [server for server in servers if server.poll() is None]
            answer = "".join(f"{server.pid}\n" for server in servers)
        elif command[:1] == ["start_server"]:
            # What the driver asks for when a first client comes.
            program = str(Path(sys.argv[0]).with_name("nvidia-cuda-mps-server"))
            servers.append(subprocess.Popen([program], stdin=subprocess.DEVNULL))
        elif command[:1] == ["quit"]:
            for server in servers:
                server.kill()
        else:
            answer = f"Command {command} not recognized\n"
        peer.sendall(answer.encode())
        peer.close()
        if command[:1] == ["quit"]:
            (PIPE / "control").unlink()
            return


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "nvidia-cuda-mps-server":
        signal.pause()
    sys.exit(daemonise() if sys.argv[1:] == ["-d"] else tell())
