#!/bin/sh
# Prints the path of a Python 3.11 or 3.12, or says on stderr how to get one and fails.
# PYTHON=/path/to/python overrides the search.

suits() {
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

path_of() {  # the interpreter behind shims and virtual environments
  "$1" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
}

if [ -n "${PYTHON:-}" ]; then
  found="$(command -v "$PYTHON")" && suits "$found" && path_of "$found" && exit 0
  echo "error: PYTHON=$PYTHON is not a Python 3.11 or 3.12. Remedy: name another one, or leave PYTHON unset." >&2
  exit 1
fi
for name in python3 python3.12 python3.11 /usr/bin/python3; do
  found="$(command -v "$name" 2>/dev/null)" && suits "$found" && path_of "$found" && exit 0
done
if [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ] && ! command -v python3 >/dev/null 2>&1; then
  echo "set-up: installing python3" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3; } >&2 </dev/null
  suits /usr/bin/python3 && path_of /usr/bin/python3 && exit 0
fi
echo "error: no Python 3.11 or 3.12 found ($(python3 --version 2>&1)). Remedy on Debian 12 or Ubuntu 24.04:" \
  "apt-get install python3 python3-venv python3-dev; elsewhere set PYTHON=/path/to/python3.12." >&2
exit 1
