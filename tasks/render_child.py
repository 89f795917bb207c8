"""The fork server's inside, and the render child: one hostile document, drawn behind limits.

    python -m tasks.render_child CONTROL_FD      (started by `tasks.fork_server`)

The server forks a child for each document and says how children have ended; it reads nothing
else. A child reads requests: the job as one line of JSON, then lines with page numbers,
``[3, 4, 5]``. It answers with frames: a 4-byte length and JSON of that length. The first frame says
that the child is ready, the second how many pages the document has or why it cannot be opened; then
comes one for each page asked for, whose pixels lie in the next slot of shared memory.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import sys
from typing import Any, BinaryIO

from tasks.drawers import Drawer, Drawn, Images, Job, Pdfium, Undrawn, reason, warm_up
from tasks.images import is_blank, load_decoders
from tasks.poppler import Poppler
from tasks.sandbox import die_with_parent, lock_down
from tasks.slots import Slots

DRAWERS: dict[str, type[Pdfium] | type[Images] | type[Poppler]] = {
    "pdfium": Pdfium,
    "image": Images,
    "poppler": Poppler,
}


def main() -> None:
    """Serve forks until the owner hangs up."""
    die_with_parent(os.getppid())
    control = socket.socket(fileno=int(sys.argv[1]))
    load_decoders()
    warm_up()
    gc.freeze()  # what is here is never freed, so children need not copy it
    control.send(b'"ready"')
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 256, 4)
        if not message:
            return
        what, *pid = json.loads(message)
        answer = _fork(control, descriptors) if what == "fork" else _ended(what, *pid)
        control.send(json.dumps(answer).encode())


def _fork(control: socket.socket, descriptors: list[int]) -> int:
    server, pid = os.getpid(), os.fork()
    if pid == 0:
        code = 1
        try:
            control.close()
            die_with_parent(server)
            os.setsid()
            draw(*descriptors)
            code = 0
        finally:
            os._exit(code)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _ended(what: str, pid: int) -> tuple[int, int] | None:
    keep = os.WNOWAIT if what == "look" else 0
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | keep)
    except ChildProcessError:
        return None
    return (end.si_code, end.si_status) if end else None


def draw(requests_fd: int, frames_fd: int, document: int, memory: int) -> None:
    """Do the job that `requests_fd` asks for."""
    with open(requests_fd, "rb") as requests, open(frames_fd, "wb", buffering=0) as frames:
        job = Job(fd=document, **json.loads(requests.readline()))
        slots = Slots(job.slot_bytes, os.fstat(memory).st_size // job.slot_bytes, memory)
        drawer = DRAWERS[job.drawer](job, slots)
        lock_down(job.memory_mb, job.stack_mb, job.seconds_per_document, job.drawer == "poppler")
        _send(frames, {"ready": True})
        _serve(drawer, job, slots, requests, frames)


def _serve(drawer: Drawer, job: Job, slots: Slots, requests: BinaryIO, frames: BinaryIO) -> None:
    try:
        count = drawer.open()
    except Exception as error:
        _send(frames, reason(error, "corrupt", job))
        return
    _send(frames, {"pages": count, "locked": drawer.locked})
    for line in requests:
        for answer in drawer.draw(json.loads(line)):
            _send(frames, _header(answer, slots, job.blank_ink))
            slots.take()


def _header(answer: Drawn | Undrawn, slots: Slots, blank_ink: float) -> dict[str, Any]:
    """What is said of an answer; its pixels are put in their slot if they do not lie there yet."""
    header: dict[str, Any] = {"page": answer.number, "seconds": answer.seconds}
    if isinstance(answer, Undrawn):
        return header | answer.error
    image, in_slot, layer, layer_fit, damage = answer.picture
    if not in_slot:
        pixels = image.tobytes("raw", "RGB")
        slots.next()[: len(pixels)] = pixels
    header |= {"width": image.width, "height": image.height, "mode": "RGBX" if in_slot else "RGB"}
    header |= {"blank": is_blank(image, blank_ink), "layer": layer}
    return header | {"layer_fit": layer_fit, "damage": damage}


def _send(frames: BinaryIO, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    view = memoryview(struct.pack(">I", len(text)) + text)
    while view:
        view = view[frames.write(view) :]


if __name__ == "__main__":
    main()
