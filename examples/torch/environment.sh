#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with the packages of requirements.txt, and installs the plug-in into it:
#   examples/torch/environment.sh [FOLDER]      default: build/torch/venv; 12 GiB of disk
# Does nothing where FOLDER is complete. Exit status 77: can't be had here, and why.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-$here/../../build/torch/venv}
room=12 # GiB: torch and what it brings take 8, their download and the build the rest
[[ -e $venv/complete ]] && exit 0
mkdir -p "$(dirname "$venv")"
free=$(($(df --output=avail -k "$(dirname "$venv")" | tail -n 1) / 1024 / 1024))
if ((free < room)); then
  echo "skipped: torch from PyPI needs $room GiB of disk, and $free GiB are free"
  exit 77
fi
if ! python3 -c 'import venv, ensurepip, sysconfig, os, sys
sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))'; then
  echo "skipped: needs python3 with venv and its headers (apt: python3-venv python3-dev)"
  exit 77
fi
rm -rf "$venv"
python3 -m venv "$venv"
if ! "$venv/bin/python" -m pip install -q -r "$here/requirements.txt"; then
  echo "skipped: the packages of $here/requirements.txt can't be had here"
  exit 77
fi
# With the environment's own ninja in front: another version would build DeepSpeed's operator anew, for minutes.
PATH=$(cd "$venv/bin" && pwd):$PATH "$venv/bin/python" -m pip install -q --no-build-isolation "$here"
touch "$venv/complete"
