#!/bin/sh
# Writes .env with passwords of this installation's own, for docker compose. Run once, from the repository's root.
set -eu
if [ -e .env ]; then
  echo "there is a .env already: its passwords are those of the database's volume, so it stays as it is" >&2
  exit 1
fi
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in ADMIN INGEST READER VALKEY; do
  echo "${name}_PASSWORD=$(random)"
done > .env
echo "wrote .env; now: docker compose up --build --detach"
