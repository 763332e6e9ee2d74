#!/usr/bin/env bash
# Audits the service weekly: `fulexo security-audit`, under the name of the security document.
exec "$(dirname "$0")/fulexo" security-audit "$@"
