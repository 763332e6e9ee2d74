#!/usr/bin/env bash
# Restores a backup: `scripts/restore.sh --clean --identity FILE`, with the variables of docs/restore.md.
exec "$(dirname "$0")/fulexo" restore "$@"
