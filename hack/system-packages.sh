#!/bin/sh
# Programs that come from the system, not from PyPI. Usage: hack/system-packages.sh LIST
#
# Each line of LIST is a Debian package and a program that shows it is there; `#` begins a comment.
# As root on Debian or Ubuntu the missing ones are installed; elsewhere they are named and the exit status is 1.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=""
while read -r package program _; do
    case $package in "" | "#"*) continue ;; esac
    command -v "$program" >/dev/null 2>&1 || missing="$missing $package"
done <"$1"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "==> installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086  # one word per package
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing system packages:$missing (on Debian or Ubuntu: sudo apt-get install$missing)" >&2
    exit 1
fi
