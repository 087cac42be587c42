#!/bin/bash
# Installs the Debian packages that are missing: `install.sh venv` for a virtual environment, `install.sh tests` for the
# tests too, `install.sh docker` for those of docker-compose.yml, `install.sh bench` for what the bench compares with.
# As root, else through sudo; where that cannot be, it says what to install and fails.
set -e
PATH=$PATH:/usr/sbin:/sbin
missing=()
has() { command -v "$1" >/dev/null; }
has_compose() { has docker-compose || docker compose version; }
has_postgresql() { compgen -G '/usr/lib/postgresql/*/bin/postgres'; } # Debian keeps the server out of PATH
need() { "${@:2}" >/dev/null 2>&1 || missing+=("$1"); } # need PACKAGE CHECK...

python=${PYTHON:-python3}
need python3-venv "$python" -c 'import ensurepip, venv'
if [ "$1" = tests ] || [ "$1" = docker ]; then
  need nginx-core has nginx # the real one, in front of a node
  need postgresql has_postgresql
  need prometheus has promtool # it reads the metrics of a node, and our rules
  need chromium has chromium # it opens the page of a node
  need iproute2 has ip      # network namespaces
  need zsh has zsh          # the shells that complete our commands
  need fish has fish
  need npm has npm          # the packages that files of the page come from
  need gcc has gcc          # pip builds uWSGI
  need libc6-dev test -e /usr/include/stdio.h
  need python3-dev "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
fi
# The tests of docker-compose.yml start an engine of their own, which only root can. They are a target of their own, so that
# no laptop gets a Docker that nobody asked for.
if [ "$1" = docker ]; then
  need docker.io has dockerd
  need iptables has iptables
  need docker-compose has_compose
  need curl has curl # what docs/docker.md says to type
fi
if [ "$1" = bench ]; then
  need gcc has gcc # the load generator
  need libc6-dev test -e /usr/include/stdio.h
  need nats-server has nats-server
  need beanstalkd has beanstalkd
  need redis-server has redis-server
  need postgresql has_postgresql
fi
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Installing with apt-get: ${missing[*]}. A minute or so, only the first time." >&2
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
if ! has apt-get || ! has "${as_root[0]:-apt-get}"; then
  echo "Missing on this machine, please install: ${missing[*]} (the names are Debian's)" >&2
  exit 1
fi
"${as_root[@]}" bash -s "${missing[@]}" <<'AS_ROOT'
set -e
# Debian starts the servers it installs; the tests want nginx and dockerd the programs, not a web server on port 80.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
fi
apt-get -o DPkg::Lock::Timeout=120 update -q </dev/null
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qy --no-install-recommends "$@" </dev/null
AS_ROOT
