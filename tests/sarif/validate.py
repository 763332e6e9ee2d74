"""Validates reports in SARIF: `validate.py REPORT.json REPORT.sarif`. The document must fit the model of sarif-pydantic, name
the rule of each result, and sarif-tools must count as many results by severity as the report has open findings."""

import json
import sys
from collections import Counter
from pathlib import Path

from sarif import loader
from sarif_pydantic import Sarif

LEVELS = {"low": "note", "medium": "warning", "high": "error", "critical": "error"}


def main():
    report_path, sarif_path = sys.argv[1:]
    report = json.loads(Path(report_path).read_text())
    document = json.loads(Path(sarif_path).read_text())
    Sarif.model_validate(document)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        index = result["ruleIndex"]
        if not 0 <= index < len(rules) or rules[index]["id"] != result["ruleId"]:
            sys.exit(f"{sarif_path}: {result['ruleId']} is not the rule at {index}")

    findings = [finding for check in report["checks"] for finding in check.get("findings", [])]
    expected = Counter(LEVELS[finding["severity"]] for finding in findings if "accepted" not in finding)
    read = loader.load_sarif_file(sarif_path)
    suppressed = [result for result in read.get_results() if result.get("suppressions")]
    accepted = sum("accepted" in finding for finding in findings)
    if len(suppressed) != accepted:
        sys.exit(f"{sarif_path}: {len(suppressed)} results are suppressed, and {accepted} findings accepted")
    counts = Counter({level: read.get_report().get_issue_count_for_severity(level) for level in ("error", "warning", "note")})
    counts.subtract(result["level"] for result in suppressed)
    if +counts != expected:
        sys.exit(f"{sarif_path}: sarif-tools counts {dict(+counts)}, the report {dict(expected)}")
    print(f"{sarif_path}: {sum(expected.values())} findings, {accepted} accepted, valid")


main()
