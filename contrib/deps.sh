#!/bin/sh
# deps.sh PACKAGE... - install through apt the Debian packages that are missing, and say which.
# Root and CI install at once; anybody else is asked before sudo is used. On other systems: lists what is needed.
set -eu

missing=
for package in "$@"; do
	if command -v dpkg-query >/dev/null 2>&1; then
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
		[ "$status" = installed ] || missing="$missing $package"
	fi
done
if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: this is no Debian system; these packages' counterparts are needed: $*"
	exit 0
fi
if [ -z "$missing" ]; then
	echo "deps: nothing is missing"
	exit 0
fi
echo "deps: installing$missing"
as_root=
if [ "$(id -u)" != 0 ]; then
	as_root=sudo
	if ! command -v sudo >/dev/null 2>&1; then
		echo "deps: neither root nor sudo here; as root run: apt-get install$missing" >&2
		exit 1
	fi
	if [ -z "${CI:-}" ]; then
		printf 'deps: use sudo apt-get for this? [Y/n] '
		read -r answer
		case $answer in n* | N*) exit 1 ;; esac
	fi
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
echo "deps: done"
