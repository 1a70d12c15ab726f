#!/usr/bin/env bash
# ./sweep.sh NAME [jobs=K] [overrides]: runs a named experiment; the same command resumes it. ./sweep.sh --help is its manual page.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec python -m mllmrec.sweep "$@"
