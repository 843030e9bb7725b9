"""Real Triton, started by hand: the samples must work without PALDIA."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from paldia.cli import samples

START_S = 30.0


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServerClient]:
    """A client of a Triton that holds both samples."""
    folder = tmp_path_factory.mktemp("triton")
    samples.prepare()
    for name in ("magika", "minilm"):
        shutil.copytree(samples.FOLDER / name, folder / "models" / name)
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copytree(root / "backends" / "python", folder / "backends" / "python")
    shutil.copy(stub, folder / "backends" / "python")
    libraries = [root.parent.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    process = subprocess.Popen(
        [
            root / "bin" / "tritonserver",
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name=paldia-samples-{os.getpid()}",
            "--grpc-port=0",
            "--allow-http=false",
            "--allow-metrics=false",
        ],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
        start_new_session=True,
    )
    try:
        yield _wait_ready(process, folder / "log")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for leaked in Path("/dev/shm").glob(f"paldia-samples-{os.getpid()}*"):
            leaked.unlink()


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> InferenceServerClient:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        for connection in psutil.Process(process.pid).net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN:
                client = InferenceServerClient(f"127.0.0.1:{connection.laddr.port}")
                with contextlib.suppress(InferenceServerException):
                    if client.is_server_ready():
                        return client
                client.close()
        time.sleep(0.1)
    raise AssertionError(f"Triton did not start:\n{log.read_text()[-4000:]}")
