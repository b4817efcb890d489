"""A job's files out of its pod: a container of ours hands them over in its log when the main one has ended.

It runs beside the job as a native sidecar (Kubernetes 1.29 or newer), which the kubelet tells to end once the job has,
however that ended. It has no keys and no network of its own to use: tar, gzip and base64 go into its log, which the
consumer reads with the rights that it has anyway. A node may rotate that log while it is written; the checksum of gzip
then says so.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.places import OUTPUTS as PLACE
from consumer.executors.tar_stream import read_tar
from consumer.model import OutputPart, Plan
from consumer.settings import Kubernetes
from consumer.storing import Refused

COLLECTOR, VOLUME = "longshore-outputs", "outputs"
GRACE = 30
"""Seconds that the kubelet gives the collector."""
HEADERS = 1024 * 1024
"""Bytes of a tar beside what is in its files."""
SILENCE = 60.0
PIECE = 1024 * 1024

# sh waits for `sleep` in the background, since it runs a trap only between commands.
_SCRIPT = """
give() {
  cd "$1" && tar -c -f - . 2>/dev/null | head -c "$2" | gzip -1 | { base64 -w 0 2>/dev/null || base64; }
  exit 0
}
trap 'give "$1" "$2"' TERM
while :; do sleep 3600 & wait $!; done
"""


def add_collector(
    spec: dict[str, Any], plan: Plan, settings: Kubernetes, empty: dict[str, str], extra: dict[str, Any]
) -> None:
    """Add the collector, and the volume that it reads, to a pod.

    `empty`: the source of empty volumes; `extra`: what all containers of the pod have.
    """
    wish = plan.job.outputs
    most = min(wish.max_bytes or settings.outputs_bytes, settings.outputs_bytes) if wish else 0
    spec["volumes"].append({"name": VOLUME, "emptyDir": empty})
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        container["volumeMounts"].append({"name": VOLUME, "mountPath": PLACE})
        container["env"].append({"name": "LONGSHORE_OUTPUTS", "value": PLACE})
    collector = {
        "name": COLLECTOR,
        "image": settings.outputs_image,
        "restartPolicy": "Always",
        "command": ["sh", "-c", _SCRIPT, "outputs", PLACE, str(most + HEADERS)],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": VOLUME, "mountPath": PLACE, "readOnly": True}],
        **extra,
    }
    spec["initContainers"] = [collector, *spec.get("initContainers", ())]
    spec["terminationGracePeriodSeconds"] = max(GRACE, spec.get("terminationGracePeriodSeconds", 0))


async def read_outputs(api: Api, namespace: str, pod: str) -> AsyncIterator[OutputPart]:
    """What the collector of an ended pod has handed over. Raises Refused."""
    try:
        path = path_of(namespace, "pods", pod, "log")
        async with api.stream(path, {"container": COLLECTOR}, sock_read=SILENCE) as response:
            async for part in read_tar(unpacked(response.content.iter_any())):
                yield part
    except ApiError as error:
        raise Refused("the pod is gone" if error.status == 404 else str(error)) from None
    except (aiohttp.ClientError, OSError, TimeoutError):
        raise Refused("the connection to the node broke") from None


async def unpacked(text: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """base64 and gzip undone. Raises Refused for what is damaged, or missing."""
    unzip, rest, begun = zlib.decompressobj(31), b"", False
    try:
        async for chunk in text:
            chunk = rest + chunk.replace(b"\n", b"")
            rest = chunk[len(chunk) // 4 * 4 :]
            data = binascii.a2b_base64(chunk[: len(chunk) // 4 * 4], strict_mode=True)
            begun = begun or bool(data)
            while data:
                if piece := unzip.decompress(data, PIECE):
                    yield piece
                data = unzip.unconsumed_tail
    except (zlib.error, binascii.Error):
        raise Refused("what the pod handed over is damaged: its node has rotated the log, perhaps") from None
    if not begun:
        raise Refused("the pod handed over nothing: it was stopped before it could")
    if not unzip.eof:
        raise Refused("what the pod handed over is cut off")
