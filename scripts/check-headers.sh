#!/usr/bin/env bash
# Checks the security headers of a server: URL.
exec "$(dirname "$0")/fulexo" check-headers "$@"
