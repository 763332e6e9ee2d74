#!/usr/bin/env bash
# Says what is well and what is not: `fulexo health-check`, under the name of the security document.
exec "$(dirname "$0")/fulexo" health-check "$@"
