#!/usr/bin/env bash
# Tests an instance of your own for weaknesses: fulexo penetration-test (docs/penetration-test.md).
exec "$(dirname "$0")/fulexo" penetration-test "$@"
