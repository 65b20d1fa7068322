"""The example of the guide, built as a package of its own, passes the suite and is found by its entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "acme-bus"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the built wheel was installed."""
    built, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(EXAMPLE))
    (wheel,) = built.glob("*.whl")
    _run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def test_a_bus_from_another_package_passes_the_suite(installed: Path) -> None:
    done = _run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), path=installed)
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_a_bus_from_another_package_is_found_by_its_name(installed: Path) -> None:
    program = "from duckmesh.app.container import bus_opener; print(bus_opener('acme').__module__)"
    assert _run(sys.executable, "-c", program, path=installed).stdout.strip() == "acme_bus"


def test_an_unknown_bus_is_refused_with_the_known_ones() -> None:
    program = "from duckmesh.app.container import bus_opener; bus_opener('acme')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "no installed package brings the bus 'acme'; known: postgres" in done.stderr


def _run(*command: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(path)} if path is not None else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
