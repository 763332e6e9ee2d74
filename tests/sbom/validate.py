"""Validates a bill of materials: `validate.py FILE`. It must fit CycloneDX's strict schema, and be a whole graph that the
library can read: each reference once, no edge to nothing."""

import json
import sys
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main():
    text = Path(sys.argv[1]).read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        sys.exit(f"{sys.argv[1]}: {error!r:.2000}")
    document = json.loads(text)
    references = [it["bom-ref"] for it in [document["metadata"]["component"], *document["components"]]]
    known = set(references)
    if len(references) != len(known):
        sys.exit("a reference is in it twice")
    for edge in document["dependencies"]:
        for reference in [edge["ref"], *edge["dependsOn"]]:
            if reference not in known:
                sys.exit(f"{reference} is no component")
    bom = Bom.from_json(document)
    if len(bom.components) != len(document["components"]):
        sys.exit("the library reads another number of components")
    print(f"{sys.argv[1]}: {len(bom.components)} components, valid")


main()
