#!/usr/bin/env python3
"""image.py NAME:TAG OUT.tar PROGRAM...: an image of static programs, without an engine. The first one is the entrypoint."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def add(archive, name, data, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def write(reference, out, programs):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for program in programs:
            add(archive, Path(program).name, Path(program).read_bytes(), 0o755)
    layer = layer.getvalue()
    digest = hashlib.sha256(layer).hexdigest()
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"/{Path(programs[0]).name}"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    settings = json.dumps(settings).encode()
    name = hashlib.sha256(settings).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
        add(archive, name, settings)
        add(archive, f"{digest}/layer.tar", layer)
        add(archive, "manifest.json", json.dumps(manifest).encode())


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], sys.argv[3:])
