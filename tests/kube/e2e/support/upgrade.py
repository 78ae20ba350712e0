"""Images of another release, made of the ones under test: nothing is compiled."""

import subprocess
import sys

from .kube import TOP

NEXT = "next"


def next_operator(kube, archives, directory):
    """Loads `local.test/chronik-operator:next` and returns its version: the program with another number in place of its version.

    The startup log and `--version` show that number, and the image has another digest. Everything else is the same code.
    """
    program = _program(archives, "operator")
    version = _version(program)
    other = version[:-1] + str((int(version[-1]) + 1) % 10)
    content = program.read_bytes()
    assert version.encode() in content, f"{program} does not contain its version {version}"
    changed = directory / program.name
    changed.write_bytes(content.replace(version.encode(), other.encode()))
    changed.chmod(0o755)
    assert _version(changed) == other
    _load(kube, "operator", changed, directory)
    return other


def next_broker(kube, archives, directory):
    """Loads `local.test/chronik-broker:next`: the same program under another image name."""
    _load(kube, "broker", _program(archives, "broker"), directory)
    return f"local.test/chronik-broker:{NEXT}"


def _program(archives, what):
    """images.sh leaves each program beside its archive."""
    return next(a for a in archives if a.name == f"chronik-{what}.tar").with_name(f"chronik-{what}")


def _version(program):
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def _load(kube, what, program, directory):
    from local import up

    archive = directory / f"next-{what}.tar"
    subprocess.run([sys.executable, TOP / "tests/kube/image.py", f"local.test/chronik-{what}:{NEXT}", archive, program], check=True)
    up.load(kube.run, [archive])
