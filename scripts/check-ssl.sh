#!/usr/bin/env bash
# Checks the certificate and the TLS of a server: HOST[:PORT].
exec "$(dirname "$0")/fulexo" check-ssl "$@"
