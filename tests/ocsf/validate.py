"""Validates OCSF records, one per line: `validate.py FILE [LEAVES]`.

Each record must fit the schema of its class in its version, if the package has that version, and have the leaf in it that its hash
is of. With LEAVES, the records must be those of the leaves in that file, line by line.
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema, get_packaged_versions


@cache
def schema(version):
    if version not in get_packaged_versions():
        return None
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version))


@cache
def validator(version, class_uid):
    classes = schema(version)
    return Draft202012Validator(classes.get_class_schema(classes.lookup_class_name_from_uid(class_uid)))


def leaf_of(record):
    """The leaf written again, in canonical form."""
    metadata = record["metadata"]
    leaf = record["unmapped"] | {
        "id": metadata["uid"],
        "correlation": metadata["correlation_uid"],
        "type": metadata["event_code"],
    }
    return json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def faults(record, leaf):
    """What is wrong with a record, in words."""
    version = record["metadata"]["version"]
    if schema(version):
        for error in validator(version, record["class_uid"]).iter_errors(record):
            yield f"{error.json_path}: {error.message[:300]}"
    if record["type_uid"] != record["class_uid"] * 100 + record["activity_id"]:
        yield "type_uid is not of its class and activity"
    if record["category_uid"] != record["class_uid"] // 1000:
        yield "category_uid is not of its class"
    own = leaf_of(record)
    if leaf is not None and own != leaf:
        yield "it has another leaf in it than the one exported"
    if hashlib.sha256(b"\0" + own).hexdigest() != record["raw_data_hash"]["value"]:
        yield "raw_data_hash is not of its leaf"
    if len(own) != record["raw_data_size"]:
        yield "raw_data_size is not of its leaf"


def main(path, leaves=None):
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    if not records:
        sys.exit(f"{path} has no records")
    expected = Path(leaves).read_bytes().splitlines() if leaves else [None] * len(records)
    if len(expected) != len(records):
        sys.exit(f"{path} has {len(records)} records of {len(expected)} leaves")
    found = 0
    for number, (record, leaf) in enumerate(zip(records, expected), 1):
        for fault in faults(record, leaf):
            found += 1
            print(f"{path}, line {number}, {record['metadata']['event_code']}: {fault}", file=sys.stderr)
    version = records[0]["metadata"]["version"]
    classes = sorted({record["class_uid"] for record in records})
    checked = f"of classes {classes}" if schema(version) else "not by a schema, which the package does not have"
    print(f"OCSF {version}: {len(records)} records validated, {checked}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
