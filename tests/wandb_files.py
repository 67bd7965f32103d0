"""What W&B has written into the folder of an offline run, read without W&B's service."""

import json
import struct
import time

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def entries(path):
    """The messages of a W&B file: LevelDB's log format (blocks of 32 KiB, records in fragments) of protobufs."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = path.read_bytes(), HEADER, []
    while position + HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        if position + HEADER + length > len(content):
            return  # still being written
        parts.append(content[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (FULL, LAST):
            message = wandb_internal_pb2.Record()
            message.ParseFromString(b"".join(parts))
            parts = []
            yield message


def name_of(item):
    """The name of a figure, whose parts W&B keeps apart."""
    return item.key or "/".join(item.nested_key)


def read_now(path):
    """The run in the file ``path`` as far as it is written; ``exit`` is None until it is finished."""
    run = {"summary": {}, "history": [], "config": {}, "artifacts": [], "exit": None}
    for message in entries(path):
        kind = message.WhichOneof("record_type")
        if kind == "run":
            run |= {"id": message.run.run_id, "name": message.run.display_name, "group": message.run.run_group}
            run |= {"project": message.run.project, "tags": list(message.run.tags), "job": message.run.job_type}
            run["config"] |= {name_of(item): json.loads(item.value_json) for item in message.run.config.update}
        elif kind == "history":
            run["history"].append({name_of(item): json.loads(item.value_json) for item in message.history.item})
        elif kind == "summary":
            run["summary"] |= {name_of(item): json.loads(item.value_json) for item in message.summary.update}
        elif kind == "artifact":
            run["artifacts"] += [entry.path for entry in message.artifact.manifest.contents]
        elif kind == "exit":
            run["exit"] = message.exit.exit_code
    return run


def runs(folder):
    """All runs in ``folder``, finished; W&B's own process writes the last bytes a moment after ``finish`` returns."""
    found = []
    for _ in range(200):
        found = [read_now(path) for path in sorted(folder.glob("wandb/*run-[0-9]*/*.wandb"))]
        if found and all(run["exit"] is not None for run in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"a run was never finished: {[run['exit'] for run in found]}")
