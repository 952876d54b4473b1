#!/bin/sh
# A shell script that serves a directory. It knows nothing of the registry; the side-car does:
#
#   PORT=8084 fairlead register --service hello-shell --port 8084 \
#     --check tcp://127.0.0.1:8084 -- sh examples/shell_service.sh
set -eu

pages=$(mktemp -d)
echo "hello from a shell script" > "$pages/index.html"
"${PYTHON:-python3}" -m http.server --directory "$pages" "${PORT:-8084}" &
server=$!

# The side-car sends TERM when no proxy knows of the instance any more.
trap 'kill "$server"; rm -r "$pages"; exit 0' TERM
wait "$server"
