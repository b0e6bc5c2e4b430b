"""The image: it can be linted and not be built here, so what it is built from is held to the package."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from kubectl_svcroute.shards.manifests import USER

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "image" / "Dockerfile"
PINS = {
    found[1]: (Version(found[2]), re.findall(r"--hash=sha256:([0-9a-f]{64})", found[3]))
    for found in re.finditer(
        r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=\S+)+)$", (ROOT / "image" / "requirements.txt").read_text(), re.MULTILINE
    )
}


def test_the_pins_are_what_the_package_asks_for() -> None:
    """Every dependency is pinned, to a version that setup.cfg takes, with a hash; binary ones for two platforms."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for line in filter(None, config["options"]["install_requires"].splitlines()):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"}):
            continue  # a bound for another system than the image's
        version, hashes = PINS[wanted.name.lower()]
        assert wanted.specifier.contains(version), line
        assert hashes
    assert len(PINS["cryptography"][1]) == len(PINS["pyyaml"][1]) == 2
    assert "setuptools" in PINS


def test_the_linter_has_nothing_to_say() -> None:
    """hadolint, with every ignore beside its reason."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint, which has no wheel for this machine")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_nobody_and_is_the_program() -> None:
    """It runs as the manifests' user, and its entry point is the console script: args of a pod are the program's own."""
    text = DOCKERFILE.read_text()
    assert re.search(rf"^USER {USER}:{USER}$", text, re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert f"{json.loads(entry)[0]} = kubectl_svcroute.cli.main:main" in (ROOT / "setup.cfg").read_text()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}" in (ROOT / "image" / "Dockerfile.dockerignore").read_text().splitlines()
