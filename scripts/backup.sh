#!/usr/bin/env bash
# Writes a backup: `scripts/backup.sh --full`, with the variables of docs/backups.md.
exec "$(dirname "$0")/fulexo" backup create "$@"
