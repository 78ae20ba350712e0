"""Provisioner and resizer of the run's storage class `local-disk`: every claim is a real XFS file system on a loop device.

Started by `init` inside its mount namespace. A claim is provisioned on the node that the scheduler selected, grown online
when its request grows, and removed with its volume. A full disk is therefore really full, and growing it really helps. XFS,
because it grows without CAP_SYS_RESOURCE, which root lacks on some machines; it wants at least 300 MiB.
"""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from .api import Api, ApiError
from .run import Run

CLASS = "local-disk"
PROVISIONER = "tests.chronik.io/disk"
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def size_of(quantity):
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()
    return int(float(number) * UNITS[unit])


def sh(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


class Volumes:
    def __init__(self, run):
        self.run, self.api = run, Api.of(run, "volumes")
        self.changed = threading.Event()
        self.mounted = set()

    def storage_class(self):
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": True,
            "reclaimPolicy": "Delete",
        }
        try:
            self.api.create("/apis/storage.k8s.io/v1/storageclasses", body)
        except ApiError as error:
            if error.status != 409:
                raise

    def watch(self, path):
        while True:
            try:
                for _ in self.api.watch(path):
                    self.changed.set()
            except (OSError, ApiError, ValueError) as error:
                print(f"watch of {path} ended: {error}", flush=True)
                time.sleep(0.5)

    def main(self):
        self.storage_class()
        for path in ("/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"):
            threading.Thread(target=self.watch, args=(path,), daemon=True).start()
        while True:
            self.changed.wait(5)
            self.changed.clear()
            try:
                self.reconcile()
            except (OSError, ApiError) as error:
                print(f"again: {error}", flush=True)
                time.sleep(0.2)
                self.changed.set()

    def reconcile(self):
        volumes = {v["metadata"]["name"]: v for v in self.api.items("/api/v1/persistentvolumes")}
        claims = self.api.items("/api/v1/persistentvolumeclaims")
        for claim in claims:
            meta = claim["metadata"]
            if claim["spec"].get("storageClassName") != CLASS:
                continue
            name = f"pv-{meta['uid']}"
            node = meta.get("annotations", {}).get("volume.kubernetes.io/selected-node")
            if name in volumes:
                self.grow(claim, volumes[name])
            elif node and not claim["spec"].get("volumeName") and "deletionTimestamp" not in meta:
                self.provision(claim, name, node)
        for name, volume in volumes.items():
            if volume["status"].get("phase") == "Released" and volume["spec"].get("storageClassName") == CLASS:
                if volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
                    self.remove(name, volume)

    def folder(self, name):
        return self.run.dir / "volumes" / name

    def provision(self, claim, name, node):
        folder, size = self.folder(name), size_of(claim["spec"]["resources"]["requests"]["storage"])
        mount = folder / "mount"
        if name not in self.mounted:
            mount.mkdir(parents=True, exist_ok=True)
            with open(folder / "image", "wb") as image:
                image.truncate(size)
            sh("mkfs.xfs", "-q", "-f", "-K", folder / "image")
            sh("mount", "-o", "loop", folder / "image", mount)
            self.mounted.add(name)
        meta = claim["metadata"]
        terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
        self.api.create("/api/v1/persistentvolumes", {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
            "spec": {
                "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
                "accessModes": claim["spec"]["accessModes"],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": CLASS,
                "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
                "local": {"path": str(mount)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            },
        })
        print(f"{meta['namespace']}/{meta['name']}: {name} of {size} bytes on {node}", flush=True)

    def grow(self, claim, volume):
        wanted = claim["spec"]["resources"]["requests"]["storage"]
        has = volume["spec"]["capacity"]["storage"]
        meta, name = claim["metadata"], volume["metadata"]["name"]
        if size_of(wanted) > size_of(has):
            folder = self.folder(name)
            sh("truncate", "-s", size_of(wanted), folder / "image")
            device = sh("findmnt", "-n", "-o", "SOURCE", folder / "mount").strip()
            sh("losetup", "-c", device)
            sh("xfs_growfs", "-d", folder / "mount")
            self.api.patch(f"/api/v1/persistentvolumes/{name}", {"spec": {"capacity": {"storage": wanted}}})
            has = wanted
            print(f"{meta['namespace']}/{meta['name']}: grown to {wanted}", flush=True)
        status = claim.get("status", {})
        if status.get("phase") == "Bound" and status.get("capacity", {}).get("storage") != has:
            path = f"/api/v1/namespaces/{meta['namespace']}/persistentvolumeclaims/{meta['name']}/status"
            self.api.patch(path, {"status": {"capacity": {"storage": has}, "conditions": None}})

    def remove(self, name, volume):
        folder = self.folder(name)
        if Path(folder / "mount").is_mount():
            sh("umount", folder / "mount")
        if folder.exists():
            sh("rm", "-rf", folder)
        self.mounted.discard(name)
        if "deletionTimestamp" not in volume["metadata"]:
            self.api.delete(f"/api/v1/persistentvolumes/{name}")
        print(f"{name}: removed", flush=True)


if __name__ == "__main__":
    Volumes(Run(sys.argv[1])).main()
