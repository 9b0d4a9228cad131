#!/bin/sh
# Install the Debian packages named that aren't there yet. Without apt, or without the right to use it,
# say so and go on: what needs them says so again.
set -u
missing=
for package in "$@"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo='sudo -n'
if ! command -v apt-get >/dev/null; then
  echo "not a Debian system; please install:$missing" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
{ $sudo apt-get -qq update && $sudo apt-get -qq install -y --no-install-recommends $missing; } >/dev/null ||
  echo "could not install:$missing" >&2
exit 0
